"""How good the searches are, by visrec and by others: trec_eval's measures, numpy's distances."""

import math

import numpy as np
import psycopg
import pytest
import pytrec_eval

CENTRES, DIMENSION = 6, 512


def clustered(rows, spread=1.5, seed=1):
    """Vectors around a few directions, and which of them each is around; they overlap."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CENTRES, DIMENSION))
    labels = random.choice(CENTRES, size=rows, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    noise = random.normal(size=(rows, DIMENSION)) * random.choice([1, 3, 6], size=(rows, 1))
    return labels, (centres[labels] + spread * noise).astype(np.float32)


def fill(db, labels, vectors, first=1):
    """Rows with these vectors, without pictures; a label that is None is NULL."""
    with db.cursor().copy("COPY posts (id, category, content_vector) FROM STDIN") as copy:
        for number, (label, vector) in enumerate(zip(labels, vectors, strict=True), start=first):
            copy.write_row((number, label, str(vector.tolist())))
    db.execute("ANALYZE posts")


def nearest(vectors):
    """Each row's other rows, nearest first, as numbers from 0."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1)[:, :-1]


def by_trec_eval(relevant, ranked, ks):
    """For each query and k: precision, recall, ap, ndcg, hit, by trec_eval.

    Its AP at k is divided by R, visrec's by min(k, R): the most that k places can hold.
    """
    cuts = ",".join(str(k) for k in ks)
    names = ("P", "recall", "map_cut", "ndcg_cut", "success")
    evaluator = pytrec_eval.RelevanceEvaluator(
        {str(q): {str(d): 1 for d in found} for q, found in relevant.items()},
        {f"{name}.{cuts}" for name in names},
    )
    run = {str(q): {str(d): -float(n) for n, d in enumerate(r)} for q, r in ranked.items()}
    results = evaluator.evaluate(run)
    measured = {}
    for query, found in relevant.items():
        for k in ks:
            values = [results[str(query)][f"{name}_{k}"] for name in names]
            values[2] *= len(found) / min(k, len(found))
            measured[query, k] = values
    return measured


def mean(measured, queries, k):
    values = [measured[query, k] for query in queries]
    return [math.fsum(column) / len(column) for column in zip(*values, strict=True)]


def test_evaluate_is_what_trec_eval_says(posts):
    """On the neighbours that numpy finds, over all and for each label."""
    ks = [1, 2, 5, 10, 50, 250]
    labels, vectors = clustered(300)
    names = [None if n % 17 == 0 else f"label {label}" for n, label in enumerate(labels)]
    fill(posts, names, vectors)
    posts.execute("SET hnsw.ef_search = 400")  # so that the index finds all
    order = nearest(vectors)
    relevant, ranked = {}, {}
    for query, name in enumerate(names):
        others = {n for n, other in enumerate(names) if other == name and n != query}
        if name is not None and others:
            relevant[query], ranked[query] = others, order[query][: max(ks)]
    measured = by_trec_eval(relevant, ranked, ks)
    rows = posts.execute("SELECT * FROM visrec.evaluate('posts', 'category', %s)", (ks,)).fetchall()
    assert len(rows) == (CENTRES + 1) * len(ks)
    for category, k, queries, *values in rows:
        asked = [q for q in relevant if category in (None, names[q])]
        assert queries == len(asked)
        assert values == pytest.approx(mean(measured, asked, k), abs=1e-9)
    assert 0.2 < rows[2][3] < 0.95  # of all at 5: there is something to measure


def test_a_sample_is_drawn_once_and_for_all(posts):
    labels, vectors = clustered(120, spread=0.8)
    fill(posts, [str(label) for label in labels], vectors)
    query = "SELECT * FROM visrec.evaluate('posts', 'category', '{5}', 40)"
    first = posts.execute(query).fetchall()
    assert first[0][2] == 40
    posts.execute("UPDATE posts SET title = 'moved' WHERE id % 3 = 0")
    posts.execute("VACUUM FULL posts")
    assert posts.execute(query).fetchall() == first


def test_recall_of_an_index_that_misses_rows(posts):
    """With hnsw.ef_search so small that the index misses some: the share of what numpy finds."""
    rows = 1200
    _, vectors = clustered(rows, spread=20)
    fill(posts, ["x"] * rows, vectors)
    posts.execute("SET hnsw.ef_search = 6")
    order = nearest(vectors)
    found = posts.execute(
        "SELECT array_agg(s.id - 1) FROM posts AS p, similar_posts(p.id, 5) AS s"
        " GROUP BY p.id ORDER BY p.id"
    ).fetchall()
    shares = [
        len({*ids} & {*right[:5].tolist()}) / 5 for (ids,), right in zip(found, order, strict=True)
    ]
    recall = "SELECT queries, recall, worst, index_ms, exact_ms FROM visrec.recall('posts', 5, %s)"
    [(queries, share, worst, by_index, exact)] = posts.execute(recall, (None,)).fetchall()
    assert queries == rows
    assert share == pytest.approx(np.mean(shares), abs=1e-9)
    assert worst == min(shares)
    assert worst < share < 0.999  # it does miss some
    assert 0 < by_index < exact
    sampled = posts.execute(recall, (50,)).fetchone()[:3]
    assert sampled[0] == 50
    assert posts.execute(recall, (50,)).fetchone()[:3] == sampled
    posts.execute("SET hnsw.ef_search = 1000")
    assert posts.execute(recall, (50,)).fetchone()[1] > 0.99


def session(vectors):
    """The state after vectors in order: what fits moves it little."""
    state = vectors[0]
    for vector in vectors[1:]:
        cosine = state @ vector / np.linalg.norm(state) / np.linalg.norm(vector)
        alpha = (cosine + 1) / 2
        state = alpha * state + (1 - alpha) * vector
    return state


def test_evaluate_taste_is_what_trec_eval_says(posts):
    """Users who come back to two of the directions: their last posts against numpy's neighbours."""
    ks, holdout, users = [1, 3, 5, 20], 0.3, 60
    labels, vectors = clustered(250, spread=0.4, seed=2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fill(posts, [str(label) for label in labels], vectors)
    posts.execute("SET hnsw.ef_search = 400")
    posts.execute("CREATE TABLE events (user_id uuid, post_id bigint, at timestamptz)")
    random = np.random.default_rng(3)
    relevant, ranked = {}, {"mean": {}, "session": {}}
    for user in range(users):
        liked = random.choice(CENTRES, size=2)
        pool = np.flatnonzero(np.isin(labels, liked))
        items = random.choice(pool, size=1 if user % 10 == 9 else random.integers(4, 12))
        posts.cursor().executemany(
            "INSERT INTO events VALUES (md5(%s::text)::uuid, %s, now() + %s * interval '1 hour')",
            random.permutation([(user, int(item) + 1, n) for n, item in enumerate(items)]).tolist(),
        )
        items = list(dict.fromkeys(items.tolist()))  # each once, in the order of the first time
        if len(items) < 2:
            continue
        held = math.ceil(round(len(items) * holdout, 9))
        past, relevant[user] = items[:-held], set(items[-held:])
        states = {"mean": vectors[past].mean(axis=0), "session": session(vectors[past])}
        for strategy, state in states.items():
            order = np.argsort(-(vectors @ state))
            ranked[strategy][user] = [n for n in order if n not in past][: max(ks)]
    rows = posts.execute(
        "SELECT * FROM visrec.evaluate_taste('posts', 'events', k => %s, holdout => %s)",
        (ks, holdout),
    ).fetchall()
    assert [row[:3] for row in rows] == [
        (strategy, k, len(relevant)) for strategy in ("mean", "session") for k in ks
    ]
    for strategy, k, _, *values in rows:
        measured = by_trec_eval(relevant, ranked[strategy], ks)
        assert values == pytest.approx(mean(measured, relevant, k), abs=1e-9)
    assert rows[2][3:] != rows[6][3:]  # the two strategies at 5
    assert rows[3][4] > 0.05


def test_an_evaluation_can_be_interrupted(posts):
    _, vectors = clustered(500)
    fill(posts, ["x"] * 500, vectors)
    posts.execute("SET statement_timeout = '100ms'")
    for query in ("recall('posts', 10, NULL)", "evaluate('posts', 'category')"):
        with pytest.raises(psycopg.errors.QueryCanceled):
            posts.execute(f"SELECT * FROM visrec.{query}")
