"""LitServe with its defaults: `python bench/litserve_app.py FOLDER PORT`. bench/serve.py starts it.

It reads JSON and forms, no bare picture: the client sends base64. A script of its own, since LitServe's worker
process imports the class by name.
"""

import base64
import sys

import litserve


class Api(litserve.LitAPI):
    """The decoder and the model that the bare loop uses."""

    def setup(self, device: str) -> None:
        from serve import bare

        self.answer = bare(sys.argv[1])

    def decode_request(self, request: dict) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, content: bytes):
        return self.answer(content)

    def encode_response(self, output) -> dict:
        return {"labels": output[0], "probabilities": output[1]}


if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu").run(
        port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
