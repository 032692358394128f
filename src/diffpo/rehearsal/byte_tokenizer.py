"""A tokenizer of bytes with a family's special tokens and chat template, where the model's own is not here."""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

BYTES_PER_TOKEN = 4
"""About how many bytes of English a token of a published tokenizer stands for."""


@dataclass(frozen=True)
class Frame:
    """The special tokens of a family, and its chat template."""

    specials: tuple[str, ...]
    mask: str
    end: str
    template: str


FRAMES: Mapping[str, Frame] = {
    "LLaDA": Frame(
        ("<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|mdm_mask|>", "<|eot_id|>"),
        mask="<|mdm_mask|>",
        end="<|endoftext|>",
        template=(
            "{% for m in messages %}{% if loop.first %}<|startoftext|>{% endif %}"
            "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        ),
    ),
    "Dream": Frame(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"),
        mask="<|mask|>",
        end="<|endoftext|>",
        template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    ),
}
"""By the family's name."""


def byte_tokenizer(family: str, size: int | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the 256 bytes and the special tokens of a family, with its chat template.

    `size`: as many tokens as this, where a model's embedding has so many; the others stand in no encoded text.
    """
    frame = FRAMES[family]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    more = 0 if size is None else size - len(tokens) - len(frame.specials)
    vocabulary = {token: index for index, token in enumerate([*tokens, *(f"w{number}" for number in range(more))])}
    backend = Tokenizer(BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in frame.specials])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=frame.mask, eos_token=frame.end, pad_token=frame.end
    )
    tokenizer.chat_template = frame.template
    return tokenizer
