"""Look at a tokenizer's chat template: whether it shows every turn, and whether the end of one ends generation."""

from collections.abc import Collection

from transformers import PreTrainedTokenizerFast

from diffpo.core.errors import UserError
from diffpo.models.chat import encode_turns, turn_end_ids
from diffpo.rehearsal.findings import Findings

USER, ASSISTANT = {"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}


def check_template(tokenizer: PreTrainedTokenizerFast, stop_ids: Collection[int], findings: Findings) -> bool:
    """Add what is wrong with the chat template; return whether prompts can be encoded with it."""
    if not tokenizer.chat_template:
        findings.note("the tokenizer has no chat template: the model sees prompts as they are")
        return True
    try:
        encode_turns(tokenizer, [USER], is_answered=False)
        encode_turns(tokenizer, [USER, ASSISTANT], is_answered=True)
        end = turn_end_ids(tokenizer)
    except UserError as error:
        findings.fault(str(error))
        return False
    if not end:
        findings.note("the chat template writes nothing behind an answer: answers end at the end of text alone")
    elif end[0] not in stop_ids:
        findings.fault(
            f"completions would never end: the chat template ends an answer with "
            f"{tokenizer.convert_ids_to_tokens(end[0])!r}, and generation stops at "
            f"{', '.join(map(str, tokenizer.convert_ids_to_tokens(sorted(stop_ids))))} alone; add the token to "
            "eos_token_id in generation_config.json, or bring the template that belongs to the tokenizer"
        )
    return True
