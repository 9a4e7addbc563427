"""Take the last ids from a tokenizer, so that they can mean something else."""

import json
from typing import Any

from ideomotor.core.errors import UserError


def shorten(json_text: str, ids: int, where: str = "the tokenizer") -> str:
    """Return the JSON of a BPE tokenizer that knows the ids below `ids` only.

    Words of the others fall into shorter pieces; all other texts keep their ids, for the merges that go are the last ones learned.
    Padding, truncation and what is added around a text (such as BOS) go as well.

    Raises:
        UserError: it is no BPE tokenizer in JSON form, or its sign for unknown characters is among the lost ids.
    """
    try:
        parts: dict[str, Any] = json.loads(json_text)
        model: dict[str, Any] = parts["model"]
        vocabulary: dict[str, int] = {token: id_ for token, id_ in model["vocab"].items() if id_ < ids}
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is no BPE tokenizer in JSON form ({error!r}); take one of a Llama") from error
    if model.get("unk_token") not in (None, *vocabulary):
        raise UserError(f"{where} has its unknown token {model['unk_token']!r} among the last ids; take another one")
    merges = [m for m in merges if all(token in vocabulary for token in (*m, "".join(m)))]
    added = [token for token in parts.get("added_tokens", []) if token["id"] < ids]
    around = dict.fromkeys(("truncation", "padding", "post_processor"))
    shorter = {**parts, **around, "added_tokens": added, "model": {**model, "vocab": vocabulary, "merges": merges}}
    return json.dumps(shorter, ensure_ascii=False)
