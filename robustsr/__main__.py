"""``python -m robustsr``."""

from .cli import main

main()
