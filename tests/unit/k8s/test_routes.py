"""How the cluster's Gateway API leads to the edge: each route at a listener of its own, each service with a route."""

from collections import Counter

from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from services.gateway.grpc_api.health import KINDS
from tests.fixtures.manifests import Object, by_name, of_kind

BUILD = "gpu with options"


def places(route: Object) -> list[tuple[str, str, str]]:
    """Where a route is attached: Gateway, listener, host name."""
    parents, hosts = route["spec"]["parentRefs"], route["spec"]["hostnames"]
    return [(parent["name"], parent["sectionName"], host) for parent in parents for host in hosts]


def test_no_two_routes_ask_for_one_host_name_of_a_listener() -> None:
    """Of an HTTPRoute and a GRPCRoute that do, a Gateway must accept exactly one."""
    routes = of_kind(BUILD, "HTTPRoute", "GRPCRoute")

    taken = Counter(place for route in routes for place in places(route))

    assert len(routes) == 2
    assert set(taken.values()) == {1}


def test_the_listener_that_a_route_names_is_there_alone_with_its_host_name() -> None:
    (gateway,) = of_kind(BUILD, "Gateway")
    listeners = gateway["spec"]["listeners"]

    asked = {place for route in of_kind(BUILD, "HTTPRoute", "GRPCRoute") for place in places(route)}

    assert {(gateway["metadata"]["name"], each["name"], each["hostname"]) for each in listeners} == asked
    assert len({(each["port"], each["hostname"]) for each in listeners}) == len(listeners)


def test_every_service_of_a_gateway_has_a_route() -> None:
    (route,) = by_name(BUILD, "GRPCRoute").values()
    (rule,) = route["rules"]

    routed = [match["method"]["service"] for match in rule["matches"]]

    assert sorted(routed) == sorted([*KINDS, health.SERVICE_NAME, reflection.SERVICE_NAME])
