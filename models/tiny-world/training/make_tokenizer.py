"""Makes a small BPE vocabulary in CLIP's format: 512 byte symbols, the merges that make every word of the
grammar one token, and the two special tokens, the end token last because CLIP pools at the highest id."""

import json
from collections import Counter

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.models.clip.tokenization_clip import CLIPTokenizer, bytes_to_unicode

import common

BEGIN, END, SUFFIX, MAX_LENGTH = "<|startoftext|>", "<|endoftext|>", "</w>", 40
PATTERN = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def words():
    """The grammar's words with their counts, alphabetically."""
    counts = Counter()
    for scene in common.scenes("train", 60000):
        counts.update(scene["text"].replace(",", " ").split())
    return dict(sorted(counts.items()))


def merge(symbols, pair):
    out, k = [], 0
    while k < len(symbols):
        if tuple(symbols[k : k + 2]) == pair:
            out.append(symbols[k] + symbols[k + 1])
            k += 2
        else:
            out.append(symbols[k])
            k += 1
    return out


def learn(counts):
    """Byte-pair merges until every word is one symbol; ties go to the alphabetically first pair."""
    split = {word: list(word[:-1]) + [word[-1] + SUFFIX] for word in counts}
    merges = []
    while True:
        pairs = Counter()
        for word, symbols in split.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: merge(symbols, best) for word, symbols in split.items()}


def fast(vocabulary, merges):
    """The same tokenizer for the `tokenizers` crate."""
    model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=SUFFIX, unk_token=END,
                       continuing_subword_prefix="", fuse_unk=False)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=(END, vocabulary[END]), cls=(BEGIN, vocabulary[BEGIN]), trim_offsets=False, add_prefix_space=False)
    tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer


def write(folder, vocabulary, merges, pad):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(folder / "vocab.json", folder / "merges.txt", pad_token=pad,
                              model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    quick = fast(vocabulary, merges)
    quick.save(str(folder / "tokenizer.json"))
    return tokenizer, quick


def check(tokenizer, quick):
    """Both implementations agree, whatever the text."""
    texts = [scene["text"] for scene in common.scenes("validation", 4000)[:500]]
    texts += ["", "Ein  Bär\nisst 12 Äpfel!?", "日本語の魚 🐟", "it's A Red STAR's", "e\u0301tude ½ a-b_c"]
    for text in texts:
        slow, other = tokenizer(text)["input_ids"], quick.encode(text).ids
        assert slow == other, (text, slow, other)
    longest = max(len(tokenizer(text)["input_ids"]) for text in texts[:500])
    print(f"vocabulary {len(tokenizer)}, longest prompt {longest} tokens")


def main():
    merges = learn(words())
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [symbol + SUFFIX for symbol in symbols]
    tokens += [first + second for first, second in merges] + [BEGIN, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens) and vocabulary[END] == len(tokens) - 1
    check(*write(common.CHECKPOINTS / "clip", vocabulary, merges, END))
    check(*write(common.CHECKPOINTS / "sd2" / "tokenizer", vocabulary, merges, "!"))


if __name__ == "__main__":
    main()
