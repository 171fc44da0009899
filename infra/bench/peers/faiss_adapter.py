"""faiss' exact flat index of inner products."""

import faiss
from measuring import DIM, answer, arguments, random_vectors, score_for

faiss.omp_set_num_threads(1)
options = arguments()
vectors, queries = random_vectors(options.items)
index = faiss.IndexFlatIP(DIM)
index.add(vectors)
answer(score_for(options.seconds, len(queries), lambda: index.search(queries, 100)))
