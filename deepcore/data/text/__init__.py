"""Text: lines of files, vocabularies, tokenizers, padding."""

from __future__ import annotations

from deepcore.data.text.lines import TextLines, read_labelled, read_lines
from deepcore.data.text.padding import pad_collate, pad_sequences
from deepcore.data.text.tokenizers import CharTokenizer, Tokenizer, WordTokenizer, split_words
from deepcore.data.text.vocabulary import Vocabulary

__all__ = [
    "CharTokenizer",
    "TextLines",
    "Tokenizer",
    "Vocabulary",
    "WordTokenizer",
    "pad_collate",
    "pad_sequences",
    "read_labelled",
    "read_lines",
    "split_words",
]
