# What the program says of itself, so that it fits the one that is installed.
skyprobe completions fish | source
