"""The bundled sample: everyday Chinese dialogues and Chinese-English pairs, made by a grammar."""
