"""Versions that are a ``model.tflite``, run by LiteRT behind the Protocols of ``tensorflow_c.interface``."""
