"""Writes a tiny Llama with random weights, a byte-level tokenizer and a chat template: `python tiny_model.py DIR`.

Run by the interpreter that has vLLM (and with it torch, transformers and tokenizers). The text that the model
writes is noise; what matters is that vLLM loads it in seconds and that characters are made of several tokens.
"""

import sys
from pathlib import Path

CORPUS = """\
A lighthouse keeper writes a letter to the harbour every evening and counts the boats that come home.
When the fog is thick the bell answers the bell, and somebody on the pier waves a lantern at nobody.
Numbers: 0 1 2 3 4 5 6 7 8 9. Code: {"key": [1, 2, 3], "name": "value"}; if x > y: return x - y
The quick answer is often the slow one. Who asks twice is told once; who asks once is told twice.
"""
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(directory: Path) -> None:
    """Write the model's files; the same bytes every time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", TURN, TURN_END],
        # All bytes, so that any text can be written; few merges, so that emoji stay in pieces.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token=TURN_END)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(TURN_END),
        pad_token_id=0,
        initializer_range=0.3,  # wide gaps between logits: greedy decoding has no near-ties
    )
    LlamaForCausalLM(config).save_pretrained(directory)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
