"""Models out of the house: ONNX, OpenVINO and the folders of servers, each with a certificate. `vitrail.export` opens it."""
