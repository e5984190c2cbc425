"""python -m segframe: the console command."""

from segframe.cli.main import main

main()
