"""What the pods of the demo ask of a node."""

from tests.fixtures.manifests import Object, of_kind, pod


def test_the_demo_leaves_a_node_of_four_processors_some_for_the_cluster() -> None:
    """A pod takes what its containers ask for together, or the most that one which prepares it asks for."""

    def asked(container: Object) -> float:
        text = container["resources"]["requests"]["cpu"]
        return int(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)

    total = 0.0
    for deployment in of_kind("cpu-demo", "Deployment"):
        first = [asked(each) for each in pod(deployment).get("initContainers", [])]
        total += deployment["spec"]["replicas"] * max(*first, sum(map(asked, pod(deployment)["containers"])), 0.0)

    assert total <= 3.0
