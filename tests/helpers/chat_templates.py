"""Chat templates as published models have them, and a tokenizer whose tokens are characters and their marks."""

from functools import lru_cache

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

MARKS = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
BOS, EOS, MASK, START, END, EOT = range(6)
# LLaDA's frame: one begin of text, a header for each turn, trimmed contents, and always the header of an answer.
LLADA = (
    "{% for m in messages %}{% if loop.first %}<|startoftext|>{% endif %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
QWEN = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}\n{{ m['content'] }}<|eot_id|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
)


@lru_cache
def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    """Every character a token, behind the marks, which are LLaDA's."""
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(MARKS + characters)}))
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token=MARKS[MASK],
        eos_token=MARKS[EOS],
        pad_token=MARKS[EOS],
        bos_token=MARKS[BOS],
    )
    tokenizer.chat_template = template
    return tokenizer
