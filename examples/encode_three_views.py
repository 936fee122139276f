"""One forward pass gives three views of a text: a dense vector, weighted word pieces and a vector for each token."""

from m3connect import M3Encoder, scoring


def main() -> None:
    encoder = M3Encoder.from_pretrained("m3-mini")  # a small demonstration model; real work wants "BAAI/bge-m3"
    texts = ["Bees make honey from nectar.", "Honey is made by bees.", "The train leaves at noon."]
    batch = encoder.encode(texts, multi_vector=True)

    print("dense:", batch.dense.shape)
    print("multi-vector:", [vectors.shape for vectors in batch.require_multi_vector()])
    for text, weights in zip(texts, batch.sparse.to_dicts(), strict=True):
        heaviest = sorted(weights, key=lambda token: -weights[token])[:4]
        print(f"sparse: {text!r} weighs {', '.join(encoder.decode(heaviest))} most")

    question, others = batch[0], batch[1:]
    print(f"\nHow near to {texts[0]!r}:")
    dense = scoring.dense(question.dense, others.dense)[0]
    sparse = scoring.sparse(question.sparse, others.sparse)[0]
    multi = scoring.multi_vector(question.require_multi_vector(), others.require_multi_vector())[0]
    for text, *scores in zip(texts[1:], dense, sparse, multi, strict=True):
        print("  dense {:.3f}  sparse {:.3f}  multi-vector {:.3f}".format(*scores), text)


if __name__ == "__main__":
    main()
