"""pg_dump of an attached database, restored into a fresh one."""

import psycopg
import pytest

from .conftest import coverage, insert, notices


def top(connection, function="similar_posts"):
    return connection.execute(
        "SELECT p.id, s.id, round(s.similarity::numeric, 5)"
        f" FROM posts AS p, {function}(p.id, 5) AS s WHERE p.content_vector IS NOT NULL"
        " ORDER BY 1, 3 DESC, 2"
    ).fetchall()


def objects(connection):
    """What attach made, and that it goes with the extension."""
    return connection.execute(
        "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend WHERE deptype = 'x' ORDER BY 1"
    ).fetchall()


def rights(connection):
    """Each function that attach made: as whom it runs, and who may call it."""
    return connection.execute(
        "SELECT p.oid::regprocedure::text, p.proowner::regrole::text, p.prosecdef, p.proconfig,"
        " ARRAY(SELECT a.grantee::regrole::text"
        "  FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a ORDER BY 1)"
        " FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.objid"
        " WHERE d.deptype = 'x' AND d.classid = 'pg_proc'::regclass ORDER BY 1"
    ).fetchall()


ATTACHED = (
    "SELECT relation::text, to_jsonb(a) - 'relation' - 'events' FROM visrec.attached AS a"
    " ORDER BY 1, name"
)
FAILURES = "SELECT relation::text, to_jsonb(f) - 'relation' FROM visrec.failure AS f ORDER BY 2"
SETTINGS = "SELECT name, value FROM visrec.setting ORDER BY name"
ROWS = "SELECT to_jsonb(p) FROM posts AS p ORDER BY id"


def same(restored, original, *questions):
    for question in questions:
        assert restored.execute(question).fetchall() == original.execute(question).fetchall()


def test_everything_works_in_the_restored_database(posts, paths, restore):
    insert(posts, [*paths[:20], "nowhere.jpg"])
    posts.execute("SELECT visrec.set('max_image_pixels', '7654321')")
    posts.execute("SELECT visrec.attach('posts', show_columns => '{title}')")
    posts.execute(
        "ALTER TABLE posts ADD CONSTRAINT a_title UNIQUE (title)"
    )  # restored before the primary key
    restored = restore()
    same(restored, posts, ATTACHED, FAILURES, SETTINGS, ROWS)
    assert restored.execute("SELECT problem FROM visrec.attached").fetchall() == [(None,)]
    assert coverage(restored) == {"embedded": 20, "failed": 1}
    assert top(restored) == top(posts)
    assert objects(restored) == objects(posts)
    assert len(objects(restored)) == 22  # 8 shells, 6 functions of visrec, 6 triggers, 2 indexes
    assert rights(restored) == rights(posts)
    insert(restored, paths[20:22], 100)
    restored.execute("UPDATE posts SET image_path = %s WHERE id = 21", (paths[22],))
    restored.execute("UPDATE posts SET image_path = 'gone.jpg' WHERE id = 1")
    restored.execute("DELETE FROM posts WHERE id = 2")
    assert coverage(restored) == {"embedded": 21, "failed": 1}
    restored.execute("DELETE FROM posts WHERE id = 1")
    assert restored.execute(FAILURES).fetchall() == []
    restored.execute("DROP EXTENSION visrec")
    assert objects(restored) == []


@pytest.fixture
def renumbered(db, paths):
    """``posts`` with columns dropped before those of its attachments, and some renamed since."""
    db.execute(
        "CREATE TABLE posts (gone int, number bigint PRIMARY KEY, gone_too int, image_path text,"
        " back text, name text, category text)"
    )
    db.execute("ALTER TABLE posts DROP COLUMN gone")
    db.execute("SELECT visrec.attach('posts', model => 'pixels', show_columns => '{name}')")
    db.execute("ALTER TABLE posts DROP COLUMN gone_too")
    db.execute(
        "SELECT visrec.attach('posts', image_column => 'back', vector_column => 'back_vector',"
        " model => 'pixels', name => 'backs')"
    )
    db.execute("ALTER TABLE posts RENAME number TO id")
    db.execute("ALTER TABLE posts RENAME name TO title")
    insert(db, [*paths[:12], "nowhere.jpg"])
    db.execute("UPDATE posts SET back = %s WHERE id = 1", (paths[20],))
    db.execute("UPDATE posts SET back = %s WHERE id = 2", (paths[21],))
    return db


def numbers(connection):
    return connection.execute("SELECT numbers FROM visrec.attachment ORDER BY id").fetchall()


def test_columns_that_have_other_numbers(renumbered, paths, restore):
    restored = restore()
    assert numbers(restored) != numbers(renumbered)
    same(restored, renumbered, ATTACHED, FAILURES, ROWS)
    assert coverage(restored) == {"embedded": 12, "failed": 1}
    assert top(restored) == top(renumbered)
    backs = "SELECT * FROM similar_backs(1)"
    assert len(renumbered.execute(backs).fetchall()) == 1
    same(restored, renumbered, backs)
    insert(restored, paths[12:14], 100)
    restored.execute("UPDATE posts SET back = %s WHERE id = 100", (paths[22],))
    assert coverage(restored) == {"embedded": 14, "failed": 1}
    states = restored.execute("SELECT state, rows FROM visrec.coverage('posts', name => 'backs')")
    assert dict(states.fetchall()) == {
        "embedded": 3, "pending": 0, "failed": 0, "no_image": 12, "stale": 0,
    }  # fmt: skip


def test_renames_follow_after_the_restore(renumbered, paths, restore):
    restored = restore()
    for old, new in (("id", "key"), ("image_path", "photo"), ("content_vector", "v"),
                     ("title", "caption"), ("back", "rear")):  # fmt: skip
        restored.execute(f"ALTER TABLE posts RENAME {old} TO {new}")
    restored.execute("ALTER TABLE posts RENAME TO articles")
    restored.execute("INSERT INTO articles (key, photo) VALUES (100, %s)", (paths[12],))
    restored.execute("UPDATE articles SET photo = %s WHERE key = 13", (paths[13],))
    assert coverage(restored, "articles") == {"embedded": 14}
    rows = restored.execute("SELECT * FROM similar_posts(1, 20)")
    assert [column.name for column in rows.description] == ["id", "similarity", "photo", "caption"]
    assert len(rows.fetchall()) == 13
    [(problems,)] = restored.execute(
        "SELECT array_agg(problem) FROM visrec.attached WHERE relation = 'articles'::regclass"
    ).fetchall()
    assert problems == [None, None]


@pytest.fixture
def keeper(db):
    """A role that owns the test's database and no more: its session, and how to log in."""
    db.execute("DROP ROLE IF EXISTS visrec_keeper")
    db.execute("CREATE ROLE visrec_keeper LOGIN PASSWORD 'x' NOSUPERUSER")
    db.execute(f'ALTER DATABASE "{db.info.dbname}" OWNER TO visrec_keeper')
    db.execute("SELECT visrec.grant_access('visrec_keeper')")
    with psycopg.connect(
        db.info.dsn, user="visrec_keeper", password="x", autocommit=True
    ) as session:
        yield session, f"dbname={db.info.dbname} user=visrec_keeper password=x"
    db.execute(f'ALTER DATABASE "{db.info.dbname}" OWNER TO CURRENT_USER')
    db.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    db.execute("DROP OWNED BY visrec_keeper CASCADE")
    db.execute("DROP ROLE visrec_keeper")


def test_a_dump_by_the_databases_owner(keeper, db, paths, restore):
    session, login = keeper
    session.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, image_path text, title text, category text)"
    )
    session.execute("SELECT visrec.attach('posts', model => 'pixels')")
    insert(session, [*paths[:20], "nowhere.jpg"])
    session.execute("SELECT * FROM visrec.reduce('posts', 4)")
    db.execute("SELECT visrec.set('max_image_pixels', '7654321')")
    db.execute("INSERT INTO visrec.model VALUES ('mine', '/models/mine', 3, 'abc')")
    restored = restore("-d", login)
    models = "SELECT name, directory, dimension, fingerprint FROM visrec.model ORDER BY name"
    same(restored, db, ATTACHED, FAILURES, SETTINGS, ROWS, models)
    assert coverage(restored) == {"embedded": 20, "failed": 1}
    assert top(restored) == top(db)
    assert objects(restored) == objects(db)
    assert rights(restored) == rights(db)
    owners = {owner for name, owner, secdef, _, _ in rights(restored) if secdef}
    assert owners == {"visrec_keeper"}
    restored.execute("ALTER DATABASE restored OWNER TO visrec_keeper")
    # What visrec.grant_access granted is in the dump, too.
    with psycopg.connect(
        restored.info.dsn, user="visrec_keeper", password="x", autocommit=True
    ) as session:
        insert(session, paths[20:22], 100)
        assert coverage(session) == {"embedded": 22, "failed": 1}
        session.execute("SELECT visrec.attach('posts', show_columns => '{title}')")
        assert len(session.execute("SELECT title FROM similar_posts(1, 30)").fetchall()) == 21


def test_schema_alone(posts, paths, pictures, restore):
    """Without data nothing is attached, and there are no settings: both are named again."""
    insert(posts, paths[:3])
    posts.execute("REVOKE ALL ON FUNCTION similar_posts FROM PUBLIC")
    restored = restore("--schema-only")
    heard = notices(restored)
    insert(restored, paths[:3])
    restored.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[3],))
    assert [severity for severity, _, _ in heard] == ["WARNING"] * 2
    for _, message, hint in heard:
        assert message.startswith('table "public.posts" has visrec\'s triggers and is not attached')
        assert hint.startswith("SELECT visrec.attach('public.posts', …); CALL visrec.backfill(")
    restored.execute("UPDATE posts SET title = 'x', id = id + 10")
    restored.execute("DELETE FROM posts WHERE id = 13")
    assert restored.execute("SELECT id, content_vector FROM posts").fetchall() == [
        (11, None), (12, None),
    ]  # fmt: skip
    restored.execute("SELECT visrec.set('image_roots', %s)", (str(pictures),))
    restored.execute("SELECT visrec.attach('posts', model => 'pixels')")
    restored.execute("CALL visrec.backfill('posts')")
    insert(restored, paths[:3])
    assert coverage(restored) == {"embedded": 5}
    assert restored.execute("SELECT count(*) FROM similar_posts(1)").fetchone() == (4,)
    [(granted,)] = restored.execute(
        "SELECT has_function_privilege('pg_monitor', 'similar_posts(bigint, integer, jsonb,"
        " double precision, boolean)', 'EXECUTE')"
    ).fetchall()
    assert not granted  # what was granted before the dump, and no more
    restored.execute("TRUNCATE posts")
    restored.execute("SELECT visrec.detach('posts', drop_vectors => true)")
    restored.execute("DROP EXTENSION visrec")
    assert objects(restored) == []


def test_schema_alone_of_a_function_that_is_not_visrecs(posts, restore):
    """A function of a shell's name that does something else is never replaced."""
    posts.execute("SELECT visrec.detach('posts')")
    posts.execute(
        "CREATE FUNCTION similar_posts(id bigint) RETURNS SETOF posts"
        " RETURN (SELECT p FROM posts AS p LIMIT 1)"
    )
    restored = restore("--schema-only")
    with pytest.raises(psycopg.errors.DuplicateFunction):
        restored.execute("SELECT visrec.attach('posts', model => 'pixels')")


def test_a_reduced_index_and_events(posts, paths, restore):
    insert(posts, paths[:20])
    posts.execute("SELECT visrec.reduce('posts', 8)")
    posts.execute("CREATE TABLE likes (user_id text, post_id bigint, weight real, at timestamptz)")
    posts.execute("INSERT INTO likes VALUES ('ann', 1, 1, now())")
    posts.execute("SELECT visrec.attach_events('posts', 'likes')")
    restored = restore()
    same(restored, posts, ATTACHED, "SELECT events::text FROM visrec.attached")
    assert top(restored) == top(posts)
    assert objects(restored) == objects(posts)
    assert len(objects(restored)) == 24  # and the projection, and recommend_posts_for
    [(reduction,)] = posts.execute(
        "SELECT format('visrec._project_%s_%s', id, reduction) FROM visrec.attachment"
    ).fetchall()
    for connection in (posts, restored):
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            f"EXPLAIN SELECT FROM posts ORDER BY {reduction}(content_vector)::vector(8)"
            f" <-> {reduction}((SELECT content_vector FROM posts LIMIT 1))::vector(8)"
        ).fetchall()
        assert "Index Scan using" in str(plan)
    ours, theirs = (
        connection.execute("SELECT id FROM recommend_posts_for('ann')").fetchall()
        for connection in (posts, restored)
    )
    assert len(ours) == 10
    assert ours == theirs
    insert(restored, paths[20:22], 100)
    assert coverage(restored) == {"embedded": 22}
    restored.execute("DROP EXTENSION visrec")
    assert objects(restored) == []


def test_models_are_dumped(db, restore):
    db.execute("INSERT INTO visrec.model VALUES ('mine', '/models/mine', 3, 'abc')")
    restored = restore()
    models = "SELECT name, directory, dimension, fingerprint FROM visrec.model ORDER BY name"
    assert len(db.execute(models).fetchall()) == 2
    same(restored, db, models)


def test_ids_go_on_where_they_were(posts, restore):
    """An attachment made after the restore has an id of its own."""
    posts.execute("CREATE TABLE other (id int PRIMARY KEY, image_path text)")
    restored = restore()
    restored.execute("SELECT visrec.attach('other', model => 'pixels')")
    ids = restored.execute("SELECT relation::text, id FROM visrec.attachment").fetchall()
    assert sorted(ids) == [("other", 2), ("posts", 1)]


@pytest.mark.parametrize("what", ["zz_touch", "aa_touch", "USER"])
def test_disabled_triggers(posts, paths, restore, what):
    """They come between visrec's triggers in the dump."""
    posts.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    for name in ("zz_touch", "aa_touch"):
        posts.execute(
            f"CREATE TRIGGER {name} BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION touch()"
        )
    insert(posts, paths[:3])
    posts.execute(f"ALTER TABLE posts DISABLE TRIGGER {what}")
    states = "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'posts'::regclass ORDER BY 1"
    before = posts.execute(states).fetchall()
    assert restore().execute(states).fetchall() == before
