"""Reference: the seconds of masked-LM training steps of a transformers model (PyTorch) on rows of random tokens.

  python profiles/hf_mlm.py MODEL_DIR --batch=64 --row-length=128 [--f32] [--no-compile]

MODEL_DIR holds a config.json; weights are random. With PyTorch's best usual settings: its own mixed precision in bf16,
attention by scaled_dot_product_attention, torch.compile, fused AdamW. Every row is full, 15 % of its tokens are
predicted; as always in transformers, logits are computed at all positions. Prints one line of JSON.
"""

import argparse
import json
import pathlib
import time

import torch
import transformers


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--row-length", type=int, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--f32", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    if not (config_file := pathlib.Path(arguments.model, "config.json")).is_file():
        parser.error(f"{config_file}: no such file")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = transformers.AutoConfig.from_pretrained(arguments.model)
    kind = transformers.MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    attention = "sdpa" if kind._supports_sdpa else "eager"  # DeBERTa has no other
    model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=attention).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    step_model = model if arguments.no_compile else torch.compile(model)
    shape = (arguments.batch, arguments.row_length)
    tokens = torch.randint(5, config.vocab_size, shape, device=device)
    labels = torch.where(torch.rand(shape, device=device) < 0.15, tokens, -100)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(arguments.warm_up + arguments.steps):
        wait()
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=not arguments.f32):
            loss = step_model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait()
        seconds.append(time.perf_counter() - start)
    result = {
        "seconds": seconds[arguments.warm_up :],
        "first_step_seconds": seconds[0],
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "loss": float(loss.detach()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
