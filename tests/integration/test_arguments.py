"""What every function says to an argument it does not take: SQLSTATE, message, detail or hint."""

# ruff: noqa: E501 - a line for each call

import psycopg
import pytest

from .conftest import coverage, insert, notices

BIG = 2147483647


@pytest.fixture
def shop(posts, paths):
    """``posts`` with eight rows, columns of many types, and events."""
    posts.execute(
        "ALTER TABLE posts ADD COLUMN price numeric(8, 2), ADD COLUMN data jsonb, ADD COLUMN tags text[],"
        " ADD COLUMN span int4range, ADD COLUMN doc json, ADD COLUMN place point, ADD COLUMN day date"
    )
    insert(posts, paths[:8])
    posts.execute("UPDATE posts SET price = id, data = to_jsonb(id), tags = ARRAY[category]")
    posts.execute("INSERT INTO posts (id) VALUES (100)")
    posts.execute(
        "CREATE TABLE events (user_id int, post_id bigint, weight float, at timestamptz, note json, mood text)"
    )
    posts.execute("INSERT INTO events VALUES (1, 1, 1, now()), (1, 2, 1, now()), (2, 1, -1, now())")
    posts.execute("SELECT visrec.attach_events('posts', 'events')")
    return posts


# (call, SQLSTATE, message, detail, hint)
WRONG = [
    # k and max_distance, the same in every search
    *(
        (call.replace("K", k), "22023", f"k must be at least 1, not {k}", None, None)
        for call in (
            "similar_posts(1, K)", "similar_posts(1, K, '{}')", "similar_posts(999, K)", "similar_posts(100, K)",
            "search_posts_by_image('x.jpg', K)", "search_posts('x', K)", "recommend_posts('{1}', k => K)",
            "recommend_posts('{}', k => K)", "recommend_posts_weighted('[[1, 1]]', K)", "recommend_posts_for(1, K)",
            "recommend_posts_for(99, K)", "duplicates_posts(K)", "visrec.duplicates('posts', K)",
            "visrec.recall('posts', K)",
        )
        for k in ("0", "-1", "-2147483648", "NULL")
    ),
    *(
        (call.replace("D", d), "22023", f"max_distance must be at least 0, not {d.strip(chr(39))}",
         "It is a cosine distance: 0 for the same direction, 1 for nothing in common, 2 at most.", None)
        for call in (
            "similar_posts(1, max_distance => D)", "similar_posts(999, max_distance => D)",
            "search_posts_by_image('x.jpg', max_distance => D)", "recommend_posts('{1}', max_distance => D)",
            "recommend_posts_for(1, max_distance => D)", "duplicates_posts(5, D)",
        )
        for d in ("-0.1", "'NaN'", "'-Infinity'")
    ),
    # Filters
    *(
        (f"{function}, filter => '{given}')", *error)
        for function in ("similar_posts(1", "recommend_posts('{1}'", "recommend_posts('{1}', strategy => 'best_score'")
        for given, *error in (
            ("[]", "22023", "the filter must be a JSON object, not array", None,
             'For example {"category": "shoes", "price": {"lt": 100}}.'),
            ('"x"', "22023", "the filter must be a JSON object, not string", None, ...),
            ("null", "22023", "the filter must be a JSON object, not null", None, ...),
            ('{"nix": 1}', "42703", 'column "nix" in the filter does not exist in table "public.posts"', None, ...),
            ('{"": 1}', "42703", 'column "" in the filter does not exist in table "public.posts"', None, ...),
            ('{"ctid": 1}', "42703", 'column "ctid" in the filter does not exist in table "public.posts"', None, ...),
            ('{"title": {"like": "x"}}', "22023", 'unknown filter operator "like" for column "title"', None,
             "Operators: eq, ne, lt, lte, gt, gte, in."),
            ('{"title": {}}', "22023", 'filter on column "title" has no operator', None,
             "Operators: eq, ne, lt, lte, gt, gte, in."),
            ('{"title": {"lt": ["a"]}}', "22023", 'filter operator "lt" on column "title" does not take an array', None, ...),
            ('{"title": ["a"]}', "22023", 'filter operator "eq" on column "title" does not take an array', None, ...),
            ('{"title": {"eq": {"a": 1}}}', "22023", 'filter operator "eq" on column "title" does not take an object', None, ...),
            ('{"title": {"in": "a"}}', "22023", 'filter operator "in" on column "title" does not take a single value', None, ...),
            ('{"title": {"in": null}}', "22023", 'filter operator "in" on column "title" does not take null', None, ...),
            ('{"title": {"lt": null}}', "22023", 'filter operator "lt" on column "title" does not take null', None, ...),
            *(
                (f'{{"{column}": {value}}}', "0A000", f'cannot filter by column "{column}" of type {kind}', None, None)
                for column, kind in (("data", "jsonb"), ("tags", "text[]"), ("span", "int4range"), ("doc", "json"),
                                     ("place", "point"), ("content_vector_source", "bigint[]"))
                for value in ("1", '"5"', '"abc"', "{}", "null", '{"in": [1]}', '{"eq": 1}')
            ),
            ('{"price": "cheap"}', "22P02", 'filter on column "price": invalid input syntax for type numeric: "cheap"', None, None),
            ('{"price": true}', "22P02", 'filter on column "price": invalid input syntax for type numeric: "true"', None, None),
            ('{"id": {"lt": 9, "gt": "1.5"}}', "22P02", 'filter on column "id": invalid input syntax for type bigint: "1.5"', None, None),
            ('{"day": {"in": ["2024-01-01", null, "soon"]}}', "22007",
             'filter on column "day": invalid input syntax for type date: "soon"', None, None),
        )
    ),
    # Strategies, diversity, weights
    *(
        (f"{function}, strategy => {given})", "22023", f'unknown strategy "{shown}"', None, ...)
        for function in ("recommend_posts('{1}'", "recommend_posts('{}'", "recommend_posts_weighted('[[1, 1]]'",
                         "recommend_posts_for(1", "visrec.taste('posts', '{1}'::bigint[]")
        for given, shown in (("'median'", "median"), ("NULL", "NULL"), ("''", ""))
    ),
    ("visrec.taste('posts', '{1}'::bigint[], strategy => 'best_score')", "22023",
     'strategy "best_score" has no taste vector', ..., "Strategies with one: mean, session."),
    *(
        (f"recommend_posts('{{1}}', diversity => {given})", "22023",
         f"diversity must be between 0 and 1, not {given.strip(chr(39))}", None, None)
        for given in ("-0.1", "1.1", "'NaN'", "'Infinity'", "NULL")
    ),
    *(
        (f"{call})", "22023", f"k must be at most 1000 with diversity or best_score, not {k}", None, None)
        for k in (1001, BIG)
        for call in (f"recommend_posts('{{1}}', k => {k}, diversity => 0.1",
                     f"recommend_posts('{{1}}', k => {k}, strategy => 'best_score'",
                     f"recommend_posts_weighted('[[1, 1]]', {k}, diversity => 1",
                     f"recommend_posts_for(1, {k}, 'best_score'")
    ),
    *(
        (f"{function} {argument} => ARRAY[{given}]::float8[])", "22023",
         f"the weights of the {what} rows must be between 1e-9 and 1e9", None, None)
        for function, argument, what in (
            ("recommend_posts('{1}',", "liked_weights", "liked"),
            ("recommend_posts('{1}', '{2}',", "disliked_weights", "disliked"),
            ("visrec.taste('posts', '{1}'::bigint[],", "liked_weights", "liked"),
            ("visrec.taste('posts', '{1}'::bigint[], '{2}'::bigint[],", "disliked_weights", "disliked"),
        )
        for given in ("'NaN'", "1e308", "-1", "0", "'Infinity'", "NULL", "1e-300")
    ),
    ("recommend_posts('{1,2}', liked_weights => '{1}')", "22023", "the number of weights (1) is not the number of liked rows (2)", None,
     "Give one weight for each row."),
    ("recommend_posts('{1}', '{2}', disliked_weights => '{}')", "22023", "the number of weights (0) is not the number of disliked rows (1)", None, ...),
    *(
        (f"recommend_posts({given})", "22023", f"the {what} rows and their weights must be arrays of one dimension", None, None)
        for given, what in (("'{{1,2},{3,4}}'", "liked"), ("'{1}', '{{1,2},{3,4}}'", "disliked"),
                            ("'{1,2}', liked_weights => '{{1,2}}'", "liked"))
    ),
    ("recommend_posts('{1,NULL}')", "22004", "the liked rows must not contain null", None, None),
    ("recommend_posts('{1}', '{NULL}')", "22004", "the disliked rows must not contain null", None, None),
    *(
        (f"recommend_posts_weighted('{given}')", "22023", "weighted must be a list of keys with their weights", None, ...)
        for given in ("{}", "1", "null", "[1]", "[[1]]", '[[1, "2"]]', "[[null, 1]]", "[[]]", '[{"1": 2}]', "[[1, null]]")
    ),
    ("recommend_posts_weighted(NULL)", "22023", "weighted must be a list of keys with their weights", None, ...),
    *(
        (f"recommend_posts_weighted('[[1, {given}]]')", "22023", f"the weights of the {what} rows must be between 1e-9 and 1e9", None, None)
        for given, what in (("1e308", "liked"), ("-1e308", "disliked"), ("1e-300", "liked"), ("1e400", "liked"), ("-1e400", "disliked"),
                            ("1e-400", "liked"))
    ),
    # Queries
    *(
        (call, "22004", "the search query must not be null", None, None)
        for call in ("search_posts(NULL)", "search_posts_by_image(NULL::text)", "search_posts_by_image(NULL::bytea)")
    ),
    ("search_posts('a red shoe')", "0A000", 'model "pixels" embeds pictures only', None,
     "Use a model with a text tower, such as clip-ViT-B-32."),
    ("recommend_posts('{1}', toward => 'red')", "0A000", 'model "pixels" embeds pictures only', None,
     "Use a model with a text tower, such as clip-ViT-B-32."),
    ("search_posts_by_image('nowhere.jpg')", "58P01", 'could not embed image "nowhere.jpg"', ..., None),
    ("search_posts_by_image('')", "58P01", "the path is empty", None, None),
    ("search_posts_by_image('/etc/passwd')", "42501", 'could not embed image "/etc/passwd"',
     "The path is not inside any directory of image_roots.", ...),
    ("search_posts_by_image('https://example.org/x.jpg')", "58030", 'could not embed image "https://example.org/x.jpg"',
     "Images are not fetched from URLs yet.", "The image must be a file under image_roots."),
    ("search_posts_by_image('\\x00'::bytea)", "22P03", "the data is not a picture in a supported format", None, ...),
    ("search_posts_by_image(''::bytea)", "22P03", ..., None, None),
    # strict
    ("similar_posts(999, strict => true)", "P0002", 'table "public.posts" has no row with the key 999', None, None),
    ("similar_posts(NULL, strict => true)", "P0002", 'table "public.posts" has no row with the key NULL', None, None),
    ("similar_posts(100, strict => true)", "P0002", 'row 100 of table "public.posts" has no vector', ...,
     "SELECT * FROM visrec.coverage('public.posts');"),
    ("recommend_posts('{}', strict => true)", "P0002", "there are no liked rows", None, ...),
    ("recommend_posts(NULL, strict => true)", "P0002", "there are no liked rows", None, ...),
    ("recommend_posts('{999,100}', strict => true)", "P0002", "none of the liked rows has a vector", None, ...),
    ("recommend_posts_weighted('[]', strict => true)", "P0002", "there are no liked rows", None, ...),
    ("recommend_posts_weighted('[[1, -1]]', strict => true)", "P0002", "there are no liked rows", None, ...),
    ("recommend_posts_for(99, strict => true)", "P0002", "user 99 has no liked rows", None, None),
    ("recommend_posts_for(2, strict => true)", "P0002", "user 2 has no liked rows", None, None),
    ("recommend_posts_for(NULL, strict => true)", "P0002", "user NULL has no liked rows", None, None),
    ("visrec.taste('posts', '{}'::bigint[], strict => true)", "P0002", "there are no liked rows", None, ...),
    *((f"recommend_posts_for(1, history => {h})", "22023", f"history must be at least 1, not {h}", None, None)
      for h in ("0", "-5", "NULL")),
    # Measuring
    ("visrec.recall('posts', sample => 0)", "22023", "sample must be at least 1, not 0", None, "NULL takes all."),
    ("visrec.evaluate('posts', 'category', '{}')", "22023", "k must not be empty", None, ...),
    ("visrec.evaluate('posts', 'category', '{1,0}')", "22023", "k must be at least 1, not 0", None, None),
    ("visrec.evaluate('posts', 'category', '{1,NULL}')", "22023", "k must be at least 1, not NULL", None, None),
    ("visrec.evaluate('posts', NULL)", "22004", "the name of the column must not be null", None, ...),
    ("visrec.evaluate('posts', 'nix')", "42703", 'column "nix" of table "public.posts" does not exist', None, ...),
    ("visrec.evaluate('posts', 'doc')", "0A000", 'cannot use column "doc" because type json has no order', None, None),
    ("visrec.evaluate_taste('posts', holdout => 0)", "22023", "holdout must be between 0 and 1, not 0", ..., None),
    ("visrec.evaluate_taste('posts', holdout => 'NaN')", "22023", "holdout must be between 0 and 1, not NaN", ..., None),
    ("visrec.evaluate_taste('posts', strategies => '{}')", "22023", "strategies must not be empty", None, ...),
    ("visrec.evaluate_taste('posts', strategies => '{median}')", "22023", 'unknown strategy "median"', None, ...),
    ("visrec.evaluate_taste('posts', user_column => 'nix')", "42703", ..., None, ...),
    # Tables
    *(
        (f"visrec.{function}", "55000", 'table "public.events" is not attached', None, "SELECT visrec.attach('public.events');")
        for function in (
            "coverage('events')", "failures('events')", "retry('events')", "recheck('events')", "detach('events')",
            "reindex('events')", "tune('events')", "reduce('events', 8)", "recall('events')", "evaluate('events', 'user_id')",
            "evaluate_taste('events')", "duplicates('events')", "attach_events('events', 'posts')",
            "taste('events', '{1}'::bigint[])",
        )
    ),
    *(
        (f"visrec.{function}", "55000", 'table "public.posts" has no attachment named "back"', None, "Attachments: posts.")
        for function in (
            "coverage('posts', 'back')", "failures('posts', 'back')", "retry('posts', 'back')", "recheck('posts', 'back')",
            "detach('posts', name => 'back')", "reindex('posts', name => 'back')", "tune('posts', name => 'back')", "reduce('posts', 8, 'back')",
            "recall('posts', name => 'back')", "evaluate('posts', 'category', name => 'back')",
            "evaluate_taste('posts', name => 'back')", "duplicates('posts', name => 'back')",
            "attach_events('posts', 'events', name => 'back')", "taste('posts', '{1}'::bigint[], name => 'back')",
        )
    ),
    *(
        (f"visrec.{function}", "22004", "the table must not be null", None, None)
        for function in (
            "attach(NULL)", "coverage(NULL)", "failures(NULL)", "retry(NULL)", "recheck(NULL)", "detach(NULL)",
            "reindex(NULL)", "tune(NULL)", "reduce(NULL, 8)", "recall(NULL)", "evaluate(NULL, 'x')", "evaluate_taste(NULL)",
            "duplicates(NULL)", "attach_events(NULL, 'events')", "taste(NULL, '{1}'::bigint[])",
        )
    ),
    ("visrec.reindex('posts', 'btree')", "22023", 'unknown index method "btree" or metric "cosine"', None, ...),
    ("visrec.reindex('posts', 'hnsw', 'l1')", "22023", 'unknown index method "hnsw" or metric "l1"', None, ...),
    ("visrec.reindex('posts', NULL)", "22023", 'unknown index method "NULL" or metric "cosine"', None, ...),
    ("visrec.reindex('posts', 'hnsw', NULL)", "22023", 'unknown index method "hnsw" or metric "NULL"', None, ...),
    ("visrec.reindex('posts', 'hnsw_reduced')", "22023", 'index method "hnsw_reduced" needs a number of dimensions', None,
     "SELECT * FROM visrec.reduce('public.posts', 128);"),
    ("visrec.reindex('posts', m => 1)", "22023", "cannot build an index with m = 1 and ef_construction = 64", ..., None),
    ("visrec.reindex('posts', m => 32, ef_construction => 63)", "22023", "cannot build an index with m = 32 and ef_construction = 63",
     "m is from 2 to 100, ef_construction from 4 to 1000 and at least twice m.", None),
    ("visrec.reindex('posts', 'ivfflat', m => 16)", "22023", 'index method "ivfflat" has neither m nor ef_construction', ..., None),
    ("visrec.reindex('posts', connection => 'dbname=x')", "08001",
     'cannot build the index of table "public.posts" beside the one that is there',
     'To build beside, a second session is needed, and extension "dblink" is not installed.', None),
    ("visrec.tune('posts', '0')", "22023", "budget must be greater than 0, not 00:00:00", None, None),
    ("visrec.tune('posts', NULL)", "22023", "budget must be greater than 0, not NULL", None, None),
    *((f"visrec.attach('posts', recall => {r})", "22023", ..., None, None) for r in ("0", "1.01", "-1", "'NaN'")),
    *((f"visrec.reduce('posts', {d})", "22023", ..., ..., ...) for d in ("0", "-1", "NULL", "513", "2147483647")),
    ("visrec.attach('posts', mode => 'async')", "22023", ..., None, ...),
    ("visrec.attach('posts', mode => 'queue')", "0A000", ..., None, ...),
    ("visrec.attach('posts', on_error => 'ignore')", "22023", ..., None, ...),
    ("visrec.attach('posts', model => 'nix')", "42704", 'model "nix" is not registered', ..., ...),
    ("visrec.attach('posts', 'nix')", "42703", 'column "nix" of table "public.posts" does not exist', None, ...),
    ("visrec.attach('posts', 'price')", "42804", 'column "price" cannot hold images because it is of type numeric(8,2)', None, ...),
    ("visrec.attach('posts', vector_column => 'title')", "42804", ..., None, ...),
    ("visrec.attach('posts', show_columns => '{title,title}')", "22023", "show_columns names a column twice", None, ...),
    ("visrec.attach('posts', show_columns => '{image_path}')", "22023", "show_columns names a column twice", None, ...),
    ("visrec.attach('posts', show_columns => '{NULL}')", "22023", ..., ..., ...),
    ("visrec.attach('posts', model => 'pixels', name => '')", "22023", "the name of an attachment must not be empty", None, None),
    ("visrec.attach('pg_class')", ..., ..., ..., ...),
    ("visrec.attach('visrec.attached')", "42809", '"visrec.attached" is not a table', None, ...),
    ("visrec.attach('events')", "42P16", 'table "public.events" has no primary key', None, ...),
    ("visrec.attach_events('posts', 'events', user_column => NULL)", "22004",
     "user_column, item_column and at_column must not be null", None, None),
    ("visrec.attach_events('posts', 'events', 'nix')", "42703", 'column "nix" of table "public.events" does not exist', None, ...),
    ("visrec.attach_events('posts', 'events', weight_column => 'note')", "42804",
     'cannot use column "note" because type json has no order', None, None),
    ("visrec.attach_events('posts', 'events', weight_column => 'mood')", "42804",
     'column "mood" cannot hold weights because it is of type text', None,
     "A weight is a number. Without weights: SELECT visrec.attach_events(…, weight_column => NULL);"),
    # What is in no table
    ("visrec.encoder_warm(NULL)", "22004", "the model must not be null", None, None),
    ("visrec.set(NULL, NULL)", "22004", "the name of the setting must not be null", None, None),
    ("visrec.embed_image('nowhere.jpg', 'nix')", "55000", 'model "nix" is not registered', None, ...),
    ("visrec.embed_image('\\x00'::bytea, 'pixels')", "22P03", "the data is not a picture in a supported format", None, ...),
    ("visrec.embed_text('x', 'pixels')", "0A000", 'model "pixels" embeds pictures only', None,
     "Use a model with a text tower, such as clip-ViT-B-32."),
    ("visrec.set('nix', '1')", "42704", 'unrecognized setting "nix"', None, ...),
    ("visrec.set('max_image_bytes', '0')", "22023", 'invalid value for "max_image_bytes": "0"', None, ...),
    ("visrec.set('max_image_bytes', '1e6')", "22023", 'invalid value for "max_image_bytes": "1e6"', None, ...),
    ("visrec.set('image_roots', 'images')", "22023", 'invalid value for "image_roots": "images"', None, ...),
    ("visrec.set('image_roots', '/a/../b')", "22023", 'invalid value for "image_roots": "/a/../b"', None, ...),
    ("visrec.set('encoder', 'none')", "22023", 'invalid value for "encoder": "none"', None, ...),
    ("visrec.grant_access('postgres', 'all')", "22023", 'unknown access "all"', None, ...),
    ("visrec.register_model('')", "22004", "the name of the model must not be empty", None, None),
    ("visrec.register_model('x', 'models/x')", "22023", 'model directory "models/x" is not an absolute path', None, None),
]  # fmt: skip


def test_a_batch_may_be_larger_than_any_table(shop):
    shop.execute("UPDATE posts SET content_vector = NULL, content_vector_source = NULL")
    shop.execute(f"CALL visrec.backfill('posts', {BIG})")
    assert coverage(shop) == {"embedded": 8, "no_image": 1}


def error_of(connection, call):
    try:
        connection.execute(
            ("CALL " if call.startswith("visrec.reindex") else "SELECT * FROM ") + call
        )
    except psycopg.Error as error:
        return error
    return None


def test_wrong_arguments_are_named(shop):
    """All of them in one database; every mismatch is listed."""
    mismatches = []
    for call, *expected in WRONG:
        error = error_of(shop, call)
        diag = error and error.diag
        found = error and [
            diag.sqlstate,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
        ]
        if found is None or any(
            (want is not ... and got != want) for got, want in zip(found, expected, strict=True)
        ):
            mismatches.append((call, found, expected))
        elif diag.message_primary[0].isupper() or diag.message_primary.endswith("."):
            mismatches.append((call, "not in PostgreSQL's style", diag.message_primary))
        elif any(
            text and not (text.endswith((".", ";")))
            for text in (diag.message_detail, diag.message_hint)
        ):
            mismatches.append((call, "not a whole sentence", found))
    assert not mismatches, "\n".join(map(repr, mismatches))
    assert coverage(shop) == {"embedded": 8, "no_image": 1}  # nothing was changed by any


def test_procedures_say_the_same(shop):
    for call, state, message in (
        ("visrec.backfill('posts', 0)", "22023", "batch_size must be at least 1, not 0"),
        ("visrec.backfill('posts', NULL)", "22023", "batch_size must be at least 1, not NULL"),
        ("visrec.backfill('posts', 64, -1)", "22023", "max_rows must be at least 0, not -1"),
        ("visrec.backfill('events')", "55000", 'table "public.events" is not attached'),
        ("visrec.backfill(NULL)", "22004", "the table must not be null"),
    ):
        with pytest.raises(psycopg.Error) as raised:
            shop.execute("CALL " + call)
        assert (raised.value.sqlstate, raised.value.diag.message_primary) == (state, message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("similar_posts(999)", 'table "public.posts" has no row with the key 999'),
        ("similar_posts(NULL)", 'table "public.posts" has no row with the key NULL'),
        ("similar_posts(100)", 'row 100 of table "public.posts" has no vector'),
        ("recommend_posts('{}')", "there are no liked rows"),
        ("recommend_posts('{}', '{1}')", "there are no liked rows"),
        ("recommend_posts(NULL)", "there are no liked rows"),
        ("recommend_posts('{999}')", "none of the liked rows has a vector"),
        ("recommend_posts_weighted('[]')", "there are no liked rows"),
        ("recommend_posts_weighted('[[1, 0]]')", "there are no liked rows"),
        ("recommend_posts_for(99)", "user 99 has no liked rows"),
    ],
)
def test_nothing_to_go_by_gives_no_rows_and_a_notice(shop, call, message):
    """As in Django, whose transaction an error would abort."""
    heard = notices(shop)
    with shop.transaction():
        assert shop.execute("SELECT * FROM " + call).fetchall() == []
        assert shop.execute("SELECT 1").fetchone() == (1,)
    assert [(severity, text) for severity, text, _ in heard] == [("NOTICE", message)]


def test_a_row_that_failed_says_why_it_has_no_vector(shop):
    shop.execute("UPDATE posts SET image_path = 'nowhere.jpg' WHERE id = 1")
    with pytest.raises(psycopg.errors.NoDataFound) as raised:
        shop.execute("SELECT * FROM similar_posts(1, strict => true)")
    assert raised.value.diag.message_primary == 'row 1 of table "public.posts" has no vector'
    assert raised.value.diag.message_detail.startswith(
        "Its image could not be embedded (missing: no such file under image_roots"
    )


def test_the_largest_k_is_taken_where_all_are_compared(shop):
    for call in (
        f"similar_posts(1, {BIG})",
        f"recommend_posts('{{1}}', k => {BIG})",
        f"recommend_posts('{{1}}', k => {BIG}, strategy => 'session')",
    ):
        assert len(shop.execute("SELECT * FROM " + call).fetchall()) == 7
    for call in (
        "recommend_posts('{1}', k => 1000, diversity => 0.5)",
        "recommend_posts('{1}', k => 1000, diversity => 1)",
        "recommend_posts('{1}', '{2}', k => 1000, strategy => 'best_score', diversity => 0.5)",
    ):
        assert len(shop.execute("SELECT * FROM " + call).fetchall()) >= 6
    shop.execute("SELECT * FROM duplicates_posts(1000, 2)").fetchall()


def test_extreme_weights_that_are_taken_point_where_they_should(shop):
    """The heaviest decides."""
    near_first = shop.execute("SELECT id FROM recommend_posts('{1}', k => 3)").fetchall()
    both = shop.execute(
        "SELECT id FROM recommend_posts('{1,2}', k => 8, liked_weights => '{1e9,1e-9}')"
    ).fetchall()
    assert both[:2] == [row for row in near_first if row != (2,)][:2]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e300", "0"])
def test_events_with_odd_weights(shop, value):
    """A row of events is data, not an argument: a plain error, or the event does not count."""
    shop.execute("INSERT INTO events VALUES (7, 1, 1, now()), (7, 2, %s, now())", (value,))
    error = error_of(shop, "recommend_posts_for(7)")
    assert error is None or error.sqlstate == "22023", error


def test_filters_give_no_wrong_rows(shop):
    """Numbers, texts, null and days compare as the column's type does."""

    def ids(given):
        found = shop.execute("SELECT id FROM similar_posts(1, 100, %s)", (given,)).fetchall()
        return sorted(row for (row,) in found)

    assert ids("{}") == [2, 3, 4, 5, 6, 7, 8]
    assert ids('{"price": 5}') == ids('{"price": 5.000}') == ids('{"price": "5"}') == [5]
    assert ids('{"price": {"gt": 3, "lte": 5}}') == [4, 5]
    assert ids('{"price": {"in": []}}') == []
    assert ids('{"price": {"in": [2, null]}}') == [2]
    assert ids('{"title": {"in": ["x", null]}}') == [2, 3, 4, 5, 6, 7, 8]
    assert ids('{"title": {"in": ["x"]}, "price": {"in": [null]}}') == []
    assert ids('{"title": null}') == [2, 3, 4, 5, 6, 7, 8]
    assert ids('{"title": {"ne": "x"}}') == [2, 3, 4, 5, 6, 7, 8]
    assert ids('{"title": {"ne": null}}') == []
    assert ids('{"day": {"lt": "2024-01-01"}}') == []
