"""Language models: tokens in mapped files, a teacher's distribution of each in few bytes, and one
loss a token."""

from frugalkd.language.corpus import Corpus, tokenize_corpus
from frugalkd.language.documents import Part
from frugalkd.language.encodings import HeadAndTail, SampledTokens, TokenEncoding, TopTokens
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.loss import TokenLoss, check_token_objective, token_loss
from frugalkd.language.models import CausalModel, check_tokenizers, cut_layers, load_causal
from frugalkd.language.targets import LiveTokens, StoredTokens
from frugalkd.language.tiny import tiny_model, tiny_splits, tiny_tokenizer

__all__ = [
    "CausalModel", "Corpus", "HeadAndTail", "LiveTokens", "Part", "SampledTokens", "StoredTokens",
    "TokenEncoding", "TokenLoss", "TopTokens", "check_token_objective", "check_tokenizers",
    "cut_layers", "load_causal", "measure_tokens", "tiny_model", "tiny_splits", "tiny_tokenizer",
    "token_loss", "tokenize_corpus",
]  # fmt: skip
