"""What schemathesis cannot guess: which models there are.

A request that is meant to be good names one of them, so that it comes further than to a 404. Bad
requests stay as they are.
"""

import schemathesis

# The model of each operation that takes one.
MODELS = {
    "/v1/chat/completions": "sim",
    "/v1/completions": "sim",
    "/v1/embeddings": "embedder",
}


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Names a model that is there in three of four good requests."""
    model = MODELS.get(case.operation.path)
    meta = case.meta
    if model is None or meta is None or not meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict) and len(str(case.body)) % 4 != 0:
        case.body["model"] = model
