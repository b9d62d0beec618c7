"""A model answers over HTTP, and shows a page at / where you see it look.

Ctrl-C and SIGTERM finish what was asked, then end. SIGHUP takes in weights that changed: they are checked first, and the
old ones go on where the new ones are bad.

examples:
  vitrail serve runs/photos-1
  vitrail serve runs/photos-1 runs/photos-2 --port 8080
  vitrail serve runs/photos-1 --watch 5
  vitrail serve runs/photos-1 --host 0.0.0.0 --token-file token.txt
  curl --data-binary @photo.jpg -H 'content-type: image/jpeg' http://127.0.0.1:8000/predict
"""

from collections.abc import Sequence

from vitrail.cli.arguments import call, parse
from vitrail.cli.options import Threads, options_of


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("serve", __doc__, Threads), words, command="serve")

    from vitrail.api.serve import serve

    call(serve, asked)
    return 0
