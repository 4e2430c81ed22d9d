"""Installs a model with Model Express's own client, and prints what its protocol is.

usage: client.py ADDRESS CACHE MODEL COMMIT    (COMMIT "": the server's default)
"""
import importlib.util
import json
import os
import sys
import types

# The package's __init__ imports torch; what is used here does not.
spec = importlib.util.find_spec("modelexpress")
package = types.ModuleType("modelexpress")
package.__path__ = list(spec.submodule_search_locations)
sys.modules["modelexpress"] = package

from modelexpress import model_pb2  # noqa: E402
from modelexpress.model_client import ModelCacheClient  # noqa: E402

address, cache, model, commit = sys.argv[1:]
with ModelCacheClient(address, cache) as client:
    snapshot = client.install_metadata_snapshot(model, requested_revision=commit or None)
    client.install_weight_files(model, snapshot)

messages = {
    m.name: {f.name: [f.number, f.type, f.is_repeated if hasattr(f, "is_repeated") else f.label == f.LABEL_REPEATED, f.has_presence] for f in m.fields}
    for m in model_pb2.DESCRIPTOR.message_types_by_name.values()
}
enums = {e.name: {v.name: v.number for v in e.values} for e in model_pb2.DESCRIPTOR.enum_types_by_name.values()}
service = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
methods = {m.name: [m.input_type.name, m.output_type.name, m.server_streaming] for m in service.methods}
print(json.dumps({"snapshot": os.fspath(snapshot), "service": service.full_name, "messages": messages, "enums": enums, "methods": methods}))
