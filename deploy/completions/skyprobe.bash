# shellcheck shell=bash
# What the program says of itself, so that it fits the one that is installed.
eval "$(skyprobe completions bash)"
