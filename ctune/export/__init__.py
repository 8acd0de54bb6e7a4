"""Models for places where ctune is not: ONNX."""
