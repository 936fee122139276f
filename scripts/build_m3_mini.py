"""Build the bundled demonstration model `m3-mini` from open data.

    export PYTHONPATH=.
    python scripts/build_m3_mini.py --data ../shared/data --work build/m3-mini --out m3connect/assets/m3-mini
    python scripts/build_m3_mini.py --data ../shared/data --untrained --out build/initial

The first makes the bundled model anew, with its card, in place of what is in that folder. The second stops after the
initialisation, some minutes, and writes that: the model that training begins with.

It trains a tokenizer, initialises the encoder by cross-lingual LSA, trains it with `m3connect.train`, writes the folder
in the layout that BAAI/bge-m3 is published in, loads it again as a stranger would, and measures it and the initialised
model on rows that neither was made of. No downloads; about an hour and a half on two cores (estimated). Run again
after a kill, it goes on from the newest checkpoint. Besides m3connect and what it needs, it wants `sentencepiece`.
Where other programs use the processor too, set OMP_WAIT_POLICY=passive: threads that wait for each other otherwise burn
most of the time.

The same data and the same versions of the libraries should give the same bytes on the same kind of processor: seeds and
the numbers of threads are fixed, and each batch is a function of its step. The initialisation, in double precision, was
made twice to the same bytes; the training was not repeated, and in bfloat16 another processor gives other bits.
"""

from m3_mini.build import main  # type: ignore[import-not-found,unused-ignore]

if __name__ == "__main__":
    main()
