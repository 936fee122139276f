"""Build the bundled demonstration model `m3-mini` from the shared training data.

    python scripts/build_m3_mini.py --data ../shared/data --out m3connect/assets/m3-mini

It trains a tokenizer, initialises the encoder by cross-lingual LSA, writes the folder in the layout that BAAI/bge-m3 is
published in, loads it again as a stranger would, and measures it on rows that it was not made of. No gradients, no
downloads; about five minutes on two idle cores. Besides torch, transformers, tokenizers, safetensors and
numpy it needs `sentencepiece`.

The same data and the same versions of the libraries give the same bytes: seeds and the tokenizer's threads are fixed,
and the factorisation runs in double precision, so that the number of torch threads changes nothing after rounding.
Another kind of processor or another torch may still change last bits of the weights.
"""

from m3_mini.build import main  # type: ignore[import-not-found,unused-ignore]

if __name__ == "__main__":
    main()
