#!/usr/bin/env bash
# torch 2.14.1: where no accelerator is in use, each torch.manual_seed formats the whole stack of Python
# calls three times (for CUDA, XPU and MTIA, to be shown if their deferred seeding fails), so that
# seeding costs more the deeper the caller is: within a training loop hundreds of times what
# torch.default_generator.manual_seed takes, which seeds the CPU's draws alone.
#
# Seen: 3 stacks a call; 0.1 ms at the top of a script and 0.5 ms fifty calls deep, against 0.001 ms.
# A loader that seeds every image, or a loop that seeds every step, pays it each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy==2.4.6"
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" - <<'PYTHON'
import time
import traceback

import torch

stacks = 0
format_stack = traceback.format_stack


def counted(*arguments, **options):
    global stacks
    stacks += 1
    return format_stack(*arguments, **options)


def microseconds(seed):
    start = time.process_time()
    for number in range(300):
        seed(number)
    return (time.process_time() - start) / 300 * 1e6


def nested(depth, call):
    return call() if depth == 0 else nested(depth - 1, call)


for name, seed in (
    ("torch.manual_seed", torch.manual_seed),
    ("torch.default_generator.manual_seed", torch.default_generator.manual_seed),
):
    for depth in (0, 50):
        taken = nested(depth, lambda: microseconds(seed))
        print(f"{name}, {depth} calls deep: {taken:.1f} microseconds")

traceback.format_stack = counted
torch.manual_seed(0)
first = torch.rand(2)
assert stacks == 3, stacks
torch.default_generator.manual_seed(0)
assert stacks == 3, stacks
assert torch.equal(torch.rand(2), first)
PYTHON
echo "as described: each seeding formats three stacks"
