#!/usr/bin/env bash
# jsonargparse 4.53.0: on the command line, `null` for an optional argument of a class that is itself
# an argument of a class arrives as the text "None", and is refused; for a class on its own it is
# None, as it is for both in YAML and JSON.
#
# Seen: "--outer.inner.rate=null" ends with status 2, "Given value type: <class 'str'>", "Given value:
# None"; "--inner.rate=null" and '--outer.inner={"init_args": {"rate": null}}' both give rate=None.
# So a LightningCLI option such as --model.encoder.dropout null can't be given where the encoder is
# an argument of a model that is chosen by its class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jsonargparse[signatures]==4.53.0"
cat > "$folder/classes.py" <<'PYTHON'
import sys

import jsonargparse


class Inner:
    def __init__(self, size: int = 3, rate: float | None = 0.9):
        pass


class Outer:
    def __init__(self, inner: Inner):
        pass


parser = jsonargparse.ArgumentParser()
parser.add_subclass_arguments(Inner, "inner", required=False)
parser.add_subclass_arguments(Outer, "outer", required=False)
print(parser.parse_args(sys.argv[1:]))
PYTHON
parse() { "$folder/venv/bin/python" "$folder/classes.py" "$@" 2>&1; }

parse --inner=Inner --inner.rate=null | grep -q "rate=None"
parse --outer=Outer --outer.inner=Inner --outer.inner.rate=0.5 | grep -q "rate=0.5"
parse --outer=Outer --outer.inner=Inner '--outer.inner={"init_args": {"rate": null}}' |
    grep -q "rate=None"
status=0
refused=$(parse --outer=Outer --outer.inner=Inner --outer.inner.rate=null) || status=$?
[ "$status" = 2 ]
grep -q "Given value type: <class 'str'>" <<< "$refused"
grep -q "Given value: None" <<< "$refused"
echo "as described: null of the inner class is refused as a text"
