"""Plain torch: one product per tile and `topk` over all of it."""

import torch
from measuring import answer, arguments, random_vectors, score_for

torch.set_num_threads(1)
options = arguments()
vectors, queries = (torch.from_numpy(values) for values in random_vectors(options.items))
answer(score_for(options.seconds, len(queries), lambda: (queries @ vectors.T).topk(100)))
