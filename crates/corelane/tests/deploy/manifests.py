"""manifests.py TOOLS DIRECTORY VERSION...

Checks every manifest of a directory against the schemas of Kubernetes, and prints all of them as one JSON object."""

import json
import pathlib
import sys

tools, directory, *versions = sys.argv[1:]
sys.path.append(tools)
import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402

manifests = {}
for path in sorted(pathlib.Path(directory).glob("*.yaml")):
    manifests[path.name] = manifest = yaml.safe_load(path.read_text())
    # These are read by kustomize, by Helm and by the kubelet, and have no schema there.
    if path.name not in ("kustomization.yaml", "prometheus-adapter.yaml", "kubelet.yaml"):
        for version in versions:
            kubernetes_validate.validate(manifest, version, strict=True)
json.dump(manifests, sys.stdout)
