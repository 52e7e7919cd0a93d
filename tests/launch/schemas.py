"""Strict checks of Kubernetes manifests: an unknown field, a missing one or a wrong type is an error.

The fields of Kubernetes itself are those of lightkube, whose classes are made from the OpenAPI specification. Those of
JobSet are written down here, from its API at v0.10 (https://github.com/kubernetes-sigs/jobset,
api/jobset/v1alpha2/jobset_types.go); what jaxfm does not use is left out, and so refused.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from lightkube.models.batch_v1 import JobTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What a JobSet is made of; the names in the manifest are in camel case."""


class Network(Strict):
    enable_dns_hostnames: bool | None = msgspec.field(default=None, name="enableDNSHostnames")
    subdomain: str | None = None
    publish_not_ready_addresses: bool | None = None


class Coordinator(Strict):
    replicated_job: str
    job_index: int | None = None
    pod_index: int | None = None


class FailurePolicyRule(Strict):
    name: str
    action: Literal["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
    on_job_failure_reasons: list[Literal["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]] | None = None
    on_job_failure_message_patterns: list[str] | None = None
    target_replicated_jobs: list[str] | None = None


class FailurePolicy(Strict):
    max_restarts: int | None = None
    restart_strategy: Literal["Recreate", "BlockingRecreate"] | None = None
    rules: list[FailurePolicyRule] | None = None


class ReplicatedJob(Strict):
    name: str
    template: JobTemplateSpec
    replicas: int | None = None


class JobSetSpec(Strict):
    replicated_jobs: list[ReplicatedJob]
    network: Network | None = None
    failure_policy: FailurePolicy | None = None
    coordinator: Coordinator | None = None
    suspend: bool | None = None


class JobSet(Strict):
    api_version: Literal["jobset.x-k8s.io/v1alpha2"]
    kind: Literal["JobSet"]
    metadata: ObjectMeta
    spec: JobSetSpec


def errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the manifest of a JobSet; of wrong types and missing fields only the first."""
    try:
        read = msgspec.convert(manifest, JobSet)
    except msgspec.ValidationError as error:
        return [str(error)]
    # lightkube's classes pass over fields that they do not know, and so lose them.
    return [f"unknown field {path}" for path in lost(manifest, msgspec.to_builtins(read), "$")]


def lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    """The paths of what is in `given` and not in `kept`."""
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(kept, dict) or name not in kept:
                yield f"{path}.{name}"
            else:
                yield from lost(value, kept[name], f"{path}.{name}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from lost(value, kept[index], f"{path}[{index}]")
