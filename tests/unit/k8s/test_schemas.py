"""Every object that kustomize builds is one that Kubernetes, KEDA, Prometheus's operator or a Gateway would take."""

import copy
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from mesh.kubernetes import MANIFESTS
from tests.fixtures.kubectl import VERSION
from tests.fixtures.manifests import BUILDS, OPTIONS, Object, build, of_kind

CRDS: Final = list(yaml.safe_load_all((Path(__file__).parents[2] / "fixtures" / "crds.yaml").read_text()))
API_VERSION: Final = VERSION.rpartition(".")[0]


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and schema.get("type") == "object":
        inner["additionalProperties"] = False
    return inner


def schema_of(document: Object) -> Object | None:
    """The schema of a custom resource; None for Kubernetes' own kinds."""
    for crd in CRDS:
        spec = crd["spec"]
        version = spec["versions"][0]
        if (f"{spec['group']}/{version['name']}", spec["names"]["kind"]) == (document["apiVersion"], document["kind"]):
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
            return closed(schema)
    return None


def complaints(document: Object) -> list[str]:
    schema = schema_of(document)
    if schema is not None:
        return [error.message for error in Draft202012Validator(schema).iter_errors(document)]
    try:
        kubernetes_validate.validate(document, API_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.message} at {list(error.path)}"]
    return []


@pytest.mark.timeout(180)  # where kubectl must be fetched first
@pytest.mark.parametrize("name", BUILDS)
def test_every_object_fits_its_schema(name: str) -> None:
    wrong = {f"{each['kind']} {each['metadata']['name']}": complaints(each) for each in build(name)}

    assert {key: found for key, found in wrong.items() if found} == {}
    assert all(each["metadata"].get("namespace", "zhinao-mesh") == "zhinao-mesh" for each in build(name))


@pytest.mark.parametrize(
    "kind",
    ["Deployment", "ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute", "InferencePool", "NetworkPolicy"],
)
def test_a_misspelt_field_is_found(kind: str) -> None:
    document = copy.deepcopy(of_kind("gpu with options", kind)[0])
    assert complaints(document) == []
    document["spec"]["imagee"] = 1

    assert complaints(document) != []


def test_every_component_is_part_of_some_build() -> None:
    used = {component for _, *components in OPTIONS.values() for component in components}
    for file in (MANIFESTS / "overlays").glob("*/kustomization.yaml"):
        used |= {Path(component).name for component in yaml.safe_load(file.read_text()).get("components", [])}

    assert used == {folder.name for folder in (MANIFESTS / "components").iterdir()}
