"""implicit's exact top-K of dot products."""

from implicit.cpu.topk import topk
from measuring import answer, arguments, random_vectors, score_for

options = arguments()
vectors, queries = random_vectors(options.items)
answer(score_for(options.seconds, len(queries), lambda: topk(vectors, queries, 100, num_threads=1)))
