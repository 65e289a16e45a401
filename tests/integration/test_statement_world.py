"""What happens inside one statement: nesting, the user's own triggers, inheritance, odd paths."""

import contextlib
import threading

import PIL.Image
import psycopg
import pytest

from .conftest import coverage, insert

SAME = (
    "SELECT count(*) FROM {table} WHERE {vector} IS NOT NULL"
    " AND ({vector} <=> visrec.embed_image({image}, 'pixels')) > 1e-6"
)


def wrong(connection, table="posts", image="image_path", vector="content_vector"):
    """How many rows have the vector of another picture."""
    query = SAME.format(table=table, image=image, vector=vector)
    return connection.execute(query).fetchone()[0]


# 2. Nested embedding -----------------------------------------------------------------------------


@pytest.fixture
def gallery(posts):
    """A second attached table."""
    posts.execute("CREATE TABLE gallery (id serial PRIMARY KEY, image_path text, post bigint)")
    posts.execute("SELECT visrec.attach('gallery', model => 'pixels')")
    return posts


@pytest.fixture(scope="session")
def big(shared, pictures):
    """A picture that decodes slowly."""
    path = shared / "images" / "big" / "big.png"
    path.parent.mkdir(parents=True)
    with PIL.Image.open(sorted(pictures.glob("*/*.jpg"))[1]) as image:
        image.convert("RGB").resize((6000, 6000)).save(path, compress_level=9)
    return path


@pytest.fixture
def pairs(big, paths):
    """Paths of a small picture and of a big one."""
    return [paths[0], str(big)]


def nest(connection, statement, event="UPDATE OF content_vector", level="ROW"):
    connection.execute(
        f"CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {statement}; RETURN NULL; END $$"
    )
    connection.execute(
        f"CREATE TRIGGER nested AFTER {event} ON posts FOR EACH {level} EXECUTE FUNCTION nested()"
    )


def test_a_trigger_inserts_into_another_attached_table(gallery, pairs, paths):
    nest(gallery, f"INSERT INTO gallery (image_path, post) VALUES ({quoted(paths[2])}, NEW.id)")
    gallery.execute("INSERT INTO posts VALUES (1, %s), (2, %s)", pairs)
    assert (coverage(gallery), coverage(gallery, "gallery")) == ({"embedded": 2}, {"embedded": 2})
    assert (wrong(gallery), wrong(gallery, "gallery")) == (0, 0)


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def test_a_trigger_copies_the_image_itself(gallery, pairs):
    nest(gallery, "INSERT INTO gallery (image_path, post) VALUES (NEW.image_path, NEW.id)")
    gallery.execute("INSERT INTO posts VALUES (1, %s), (2, %s)", pairs)
    gallery.execute("INSERT INTO posts VALUES (3, %s), (4, %s)", pairs[::-1])
    assert coverage(gallery, "gallery") == {"embedded": 4}
    assert (wrong(gallery), wrong(gallery, "gallery")) == (0, 0)


def test_nesting_with_many_small_pictures(gallery, paths):
    nest(gallery, "INSERT INTO gallery (image_path, post) VALUES (NEW.image_path, NEW.id)")
    insert(gallery, (paths * 7)[:300])
    assert coverage(gallery) == coverage(gallery, "gallery") == {"embedded": 300}
    assert (wrong(gallery), wrong(gallery, "gallery")) == (0, 0)


@pytest.mark.parametrize("count", [2, 300])
def test_a_trigger_embeds_by_itself(posts, pairs, paths, count):
    posts.execute("ALTER TABLE posts ADD again vector")
    nest(
        posts,
        "UPDATE posts SET again = visrec.embed_image(NEW.image_path, 'pixels') WHERE id = NEW.id",
    )
    insert(posts, pairs if count == 2 else (paths * 7)[:count])
    assert coverage(posts) == {"embedded": count}
    assert (wrong(posts), wrong(posts, vector="again")) == (0, 0)


def test_two_tables_that_feed_each_other(gallery, paths):
    """Each vector in one puts a row into the other, until the pictures run out."""
    gallery.execute("CREATE TABLE pictures (n int PRIMARY KEY, path text)")
    with gallery.cursor() as cursor:
        cursor.executemany("INSERT INTO pictures VALUES (%s, %s)", enumerate(paths[:20]))
    gallery.execute(
        "CREATE FUNCTION feed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF tg_table_name = 'posts' THEN"
        "  INSERT INTO gallery (id, image_path) SELECT n, path FROM pictures WHERE n = NEW.id + 1;"
        " ELSE INSERT INTO posts (id, image_path) SELECT n, path FROM pictures WHERE n ="
        " NEW.id + 1;"
        " END IF; RETURN NULL; END $$"
    )
    for table in ("posts", "gallery"):
        gallery.execute(
            f"CREATE TRIGGER feed AFTER UPDATE OF content_vector ON {table}"
            " FOR EACH ROW WHEN (NEW.content_vector IS NOT NULL) EXECUTE FUNCTION feed()"
        )
    gallery.execute("INSERT INTO posts (id, image_path) VALUES (0, %s)", (paths[0],))
    assert coverage(gallery) == coverage(gallery, "gallery") == {"embedded": 10}
    assert (wrong(gallery), wrong(gallery, "gallery")) == (0, 0)


def test_nesting_in_a_backfill(gallery, paths):
    nest(gallery, "INSERT INTO gallery (image_path, post) VALUES (NEW.image_path, NEW.id)")
    gallery.execute("ALTER TABLE posts DISABLE TRIGGER ALL")
    insert(gallery, (paths * 4)[:150])
    gallery.execute("ALTER TABLE posts ENABLE TRIGGER ALL")
    gallery.execute("CALL visrec.backfill('posts', batch_size => 16)")
    assert coverage(gallery) == coverage(gallery, "gallery") == {"embedded": 150}
    assert (wrong(gallery), wrong(gallery, "gallery")) == (0, 0)


def test_a_nested_statement_that_fails(gallery, pairs, paths):
    """Rolled back to a savepoint in the middle of the outer answer, which goes on."""
    nest(
        gallery,
        "BEGIN INSERT INTO gallery (image_path) VALUES (NEW.image_path), ('nowhere.jpg');"
        " RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END",
    )
    gallery.execute("SET client_min_messages = error")
    insert(gallery, [*pairs, *paths[:30]])
    assert coverage(gallery) == {"embedded": 32}
    assert coverage(gallery, "gallery") == {}
    assert gallery.execute("SELECT * FROM visrec.failure").fetchall() == []
    assert wrong(gallery) == 0


def test_a_nested_failure_is_of_the_nested_row(gallery, paths):
    nest(gallery, "INSERT INTO gallery (image_path, post) VALUES ('nowhere.jpg', NEW.id)")
    insert(gallery, paths[:20])
    assert coverage(gallery) == {"embedded": 20}
    assert coverage(gallery, "gallery") == {"failed": 20}


def test_a_trigger_that_searches_while_vectors_arrive(posts, pairs, paths):
    """The searches of an outer statement's trigger have an encoder of their own, too."""
    posts.execute("CREATE TABLE found (post bigint, d float8)")
    nest(
        posts,
        "INSERT INTO found SELECT NEW.id, similarity FROM search_posts_by_image(NEW.image_path, 1)",
    )
    insert(posts, [*pairs, *paths[2:40]])
    assert posts.execute("SELECT count(*), min(d) > 0.999999 FROM found").fetchall() == [(40, True)]
    assert wrong(posts) == 0


# 7. The user's own triggers and CHECKs -----------------------------------------------------------


@pytest.fixture
def shop(db):
    """A schema on the session's path, with a table whose triggers name things unqualified."""
    db.execute("CREATE SCHEMA shop")
    db.execute("SET search_path = shop, public")
    db.execute("CREATE TABLE audit (id bigint, what text)")
    db.execute("CREATE TABLE limits (most int)")
    db.execute("INSERT INTO limits VALUES (10)")
    db.execute(
        "CREATE FUNCTION allowed(text) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN (SELECT length($1) < 1000 * most FROM limits); END $$"
    )
    db.execute(
        "CREATE FUNCTION label(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN RETURN (SELECT $1 || most FROM limits); END $$"
    )
    db.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, image_path text CHECK (allowed(image_path)),"
        " made text GENERATED ALWAYS AS (label(image_path)) STORED)"
    )
    db.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit VALUES (NEW.id, tg_op); RETURN NEW; END $$"
    )
    db.execute(
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION note()"
    )
    db.execute("SELECT visrec.attach('items', model => 'pixels')")
    return db


def test_unqualified_names_in_the_users_code(shop, paths):
    shop.execute("INSERT INTO items VALUES (1, %s), (2, %s)", paths[:2])
    shop.execute("UPDATE items SET image_path = %s WHERE id = 1", (paths[3],))
    assert coverage(shop, "items") == {"embedded": 2}
    assert wrong(shop, "items") == 0
    shop.execute("UPDATE items SET content_vector = NULL")
    shop.execute("CALL visrec.backfill('items')")
    assert coverage(shop, "items") == {"embedded": 2}
    shop.execute("INSERT INTO items VALUES (3, 'nowhere.jpg')")
    assert shop.execute("SELECT visrec.retry('items')").fetchone() == (0,)
    assert shop.execute("SELECT count(*) > 5 FROM audit").fetchone() == (True,)


def test_the_path_is_as_it_was_after_each_call(shop, paths):
    """Also after an error, in a savepoint and inside the statement, for a user's later trigger."""

    def path():
        return shop.execute("SHOW search_path").fetchone()

    before = path()
    shop.execute("INSERT INTO items VALUES (1, %s), (2, 'nowhere.jpg')", (paths[0],))
    assert path() == before
    with shop.transaction():
        with contextlib.suppress(psycopg.Error), shop.transaction():
            shop.execute("SELECT visrec.attach('items', on_error => 'raise')")
            shop.execute("INSERT INTO items VALUES (3, 'nowhere.jpg')")
        assert path() == before
        shop.execute("INSERT INTO items VALUES (4, %s)", (paths[0],))
        assert path() == before
    shop.execute("CALL visrec.backfill('items')")
    assert path() == before
    with contextlib.suppress(psycopg.Error):
        shop.execute("CALL visrec.backfill('items', batch_size => 0)")
    assert path() == before


# 8. Inheritance ----------------------------------------------------------------------------------


def test_inheritance_does_not_swap_vectors(db, paths):
    """Parent and child with one key: refused, or each row has its own."""
    db.execute("CREATE TABLE parent (id bigint PRIMARY KEY, image_path text)")
    db.execute("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
        db.execute("SELECT visrec.attach('parent', model => 'pixels')")
    assert "child" in caught.value.diag.message_primary
    db.execute("SELECT visrec.attach('child', model => 'pixels')")
    db.execute("INSERT INTO parent VALUES (1, %s)", (paths[0],))
    db.execute("INSERT INTO child VALUES (1, %s)", (paths[1],))
    # A statement's triggers are those of the table it names: the row is pending, never wrong.
    db.execute("UPDATE parent SET image_path = %s WHERE tableoid = 'child'::regclass", (paths[2],))
    assert wrong(db, "child") == 0
    db.execute("CALL visrec.backfill('child')")
    assert coverage(db, "child") == {"embedded": 1}
    assert wrong(db, "child") == 0


@pytest.mark.parametrize("key", ["PRIMARY KEY (id)", "CHECK (true)"])
def test_a_child_that_comes_after_attach(db, paths, key):
    """Attached are the parent's own rows; a child with the same keys changes none of them."""
    db.execute("CREATE TABLE parent (id bigint PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('parent', model => 'pixels')")
    db.execute("INSERT INTO parent VALUES (1, %s), (2, %s)", paths[:2])
    db.execute(f"CREATE TABLE child ({key}) INHERITS (parent)")
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):
        db.execute("INSERT INTO child VALUES (1, %s), (3, %s)", paths[2:4])
        db.execute("UPDATE parent SET image_path = %s WHERE id = 1", (paths[4],))
        db.execute("CALL visrec.backfill('parent')")
        db.execute("SELECT visrec.recheck('parent')")
        db.execute("DELETE FROM child WHERE id = 1")
    assert wrong(db, "ONLY parent") == 0
    assert wrong(db, "child") == 0
    assert sum(coverage(db, "parent").values()) == 2
    assert sorted(db.execute("SELECT id FROM similar_parent(1, 10)").fetchall()) == [(2,)]


# 9. Endless paths --------------------------------------------------------------------------------


def test_an_endless_path_harms_its_own_row_alone(posts, paths):
    """45 million letters of two bytes are more than any message to the encoder may have."""
    posts.execute(
        "INSERT INTO posts (id, image_path) SELECT n, CASE n WHEN 7 THEN repeat('é', 45000000)"
        " ELSE p END FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        (paths[:20],),
    )
    assert coverage(posts) == {"embedded": 19, "failed": 1}
    [(row, code, shown)] = posts.execute(
        "SELECT row_id, code, length(image) FROM visrec.failure"
    ).fetchall()
    assert (row, shown <= 500) == ("7", True)
    assert code in ("unreadable", "missing")  # of the image, not of the encoder
    posts.execute("UPDATE posts SET content_vector = NULL WHERE id < 7")
    posts.execute("CALL visrec.backfill('posts', batch_size => 5)")
    assert coverage(posts) == {"embedded": 19, "failed": 1}
    assert posts.execute("SELECT visrec.retry('posts')").fetchone() == (0,)
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (0,)
    assert wrong(posts) == 0


@pytest.mark.parametrize(
    "path",
    [
        "repeat(E'\\\\u0001', 1000000)",
        "repeat('\"', 4096)",
        "repeat('😀', 4096)",
        "repeat('/', 4096)",
    ],
)
def test_paths_that_grow_on_the_way(posts, paths, path):
    """Escaped as JSON they are up to six times as long."""
    posts.execute(
        f"INSERT INTO posts (id, image_path) SELECT n, {path.replace('%', '%%')}"
        " FROM generate_series(10, 150) AS n UNION ALL VALUES (1, %s)",
        (paths[0],),
    )
    assert coverage(posts) == {"embedded": 1, "failed": 141}


# Several attachments, and images that change often -----------------------------------------------


@pytest.fixture
def both(posts):
    """``posts`` with a second attachment: another image column, another vector."""
    posts.execute("ALTER TABLE posts ADD back text")
    posts.execute(
        "SELECT visrec.attach('posts', image_column => 'back', vector_column => 'back_vector',"
        " model => 'pixels', name => 'posts_back')"
    )
    return posts


def states(connection, name):
    rows = connection.execute(
        "SELECT * FROM visrec.coverage('posts', name => %s) WHERE rows > 0", (name,)
    )
    return dict(rows.fetchall())


def test_two_attachments_of_one_table(both, paths):
    both.execute(
        "INSERT INTO posts (id, image_path, back) VALUES (1, %s, %s), (2, %s, 'nowhere'),"
        " (3, 'nowhere', %s), (4, %s, NULL)",
        [paths[i] for i in (0, 1, 2, 3, 4)],
    )
    assert states(both, "posts") == {"embedded": 3, "failed": 1}
    assert states(both, "posts_back") == {"embedded": 2, "failed": 1, "no_image": 1}
    both.execute("UPDATE posts SET image_path = back, back = image_path WHERE id = 1")
    both.execute("UPDATE posts SET back = %s WHERE id IN (2, 4)", (paths[6],))
    assert states(both, "posts_back") == {"embedded": 4}
    assert (wrong(both), wrong(both, image="back", vector="back_vector")) == (0, 0)
    assert len(both.execute("SELECT * FROM similar_posts_back(1, 9)").fetchall()) == 3
    assert len(both.execute("SELECT * FROM similar_posts(1, 9)").fetchall()) == 2
    assert both.execute("SELECT name, row_id FROM visrec.failure").fetchall() == [("posts", "3")]
    both.execute("DELETE FROM posts WHERE id = 3")
    assert both.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)
    both.execute("SELECT visrec.detach('posts', name => 'posts_back', drop_vectors => true)")
    both.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[7],))
    assert states(both, "posts") == {"embedded": 3}
    assert wrong(both) == 0


def test_two_attachments_of_one_image(posts, paths):
    posts.execute(
        "SELECT visrec.attach('posts', vector_column => 'second', model => 'pixels', name =>"
        " 'second')"
    )
    insert(posts, [*paths[:3], "nowhere.jpg"])
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[5],))
    posts.execute("UPDATE posts SET image_path = 'gone.jpg' WHERE id = 3")
    assert states(posts, "posts") == states(posts, "second") == {"embedded": 2, "failed": 2}
    assert (wrong(posts), wrong(posts, vector="second")) == (0, 0)
    posts.execute("UPDATE posts SET image_path = ''")
    assert states(posts, "posts") == states(posts, "second") == {"no_image": 4}
    assert posts.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def marked(connection):
    """Rows that a statement marked and left so."""
    return connection.execute(
        "SELECT count(*) FROM posts WHERE content_vector IS NULL AND content_vector_source IS"
        " NOT NULL"
    ).fetchone()[0]


def test_the_image_changes_many_times_in_one_transaction(posts, paths):
    insert(posts, paths[:5])
    with posts.transaction():
        for n in range(4):
            posts.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[10 + n],))
            posts.execute("UPDATE posts SET image_path = %s WHERE id <= 2", (paths[20 + n],))
            assert wrong(posts) == 0
            with posts.transaction():
                posts.execute("UPDATE posts SET image_path = %s", (paths[30],))
                posts.execute("UPDATE posts SET image_path = 'nowhere' WHERE id = 5")
                raise psycopg.Rollback
            assert (wrong(posts), coverage(posts)) == (0, {"embedded": 5})
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 5})
    assert posts.execute("SELECT count(*) FROM visrec.failure").fetchone() == (0,)


def test_a_mark_of_a_transaction_is_no_other_statements(posts, paths, connect):
    """Rows that the user left without a vector, with triggers off, are the backfill's."""
    insert(posts, paths[:4])
    with posts.transaction():
        posts.execute("SET LOCAL session_replication_role = replica")
        posts.execute(
            "UPDATE posts SET content_vector = NULL,"
            " content_vector_source = ARRAY[pg_current_xact_id()::text::bigint] WHERE id = 4"
        )
        posts.execute("SET LOCAL session_replication_role = origin")
        posts.execute("UPDATE posts SET image_path = %s WHERE id = 1", (paths[7],))
    posts.execute("CALL visrec.backfill('posts')")
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 4})


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_updates_of_images_in_nested_triggers(posts, paths, level):
    """A trigger of the outer UPDATE changes other rows' images before and after its end."""
    insert(posts, paths[:6])
    posts.execute(
        "CREATE FUNCTION next() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF pg_trigger_depth() < 4 THEN"
        f"  UPDATE posts SET image_path = {quoted(paths[9])} WHERE id = 1 + pg_trigger_depth();"
        f"  UPDATE posts SET image_path = {quoted(paths[10])} WHERE id = 2 + pg_trigger_depth();"
        " END IF; RETURN NEW; END $$"
    )
    for name in ("a", "zz"):  # before visrec's and after
        posts.execute(
            f"CREATE TRIGGER {name} AFTER UPDATE OF image_path ON posts"
            f" FOR EACH {level} EXECUTE FUNCTION next()"
        )
    posts.execute("UPDATE posts SET image_path = %s WHERE id IN (1, 6)", (paths[12],))
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 6})


@pytest.mark.parametrize("name", ["a", "visrec_0", "z", "~visrec_9", "~~~"])
@pytest.mark.parametrize("column", ["", "OF image_path", "OF title"])
@pytest.mark.one_in(3)
def test_a_before_trigger_that_rewrites_the_image(posts, paths, name, column):
    """Whatever its name, and also where the statement did not name the image."""
    insert(posts, paths[:3])
    posts.execute(
        "CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" NEW.image_path := {quoted(paths[8])}; RETURN NEW; END $$"
    )
    posts.execute(
        f'CREATE TRIGGER "{name}" BEFORE INSERT OR UPDATE {column} ON posts'
        " FOR EACH ROW EXECUTE FUNCTION rewrite()"
    )
    posts.execute("UPDATE posts SET title = 'x' WHERE id = 1")
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[5],))
    posts.execute("UPDATE posts SET image_path = %s, title = 'y' WHERE id = 3", (paths[6],))
    posts.execute("INSERT INTO posts (id, image_path) VALUES (4, %s)", (paths[7],))
    found = coverage(posts)
    assert sum(found.values()) == 4
    assert wrong(posts) <= found.get("stale", 0)  # none that counts as embedded
    posts.execute("CALL visrec.backfill('posts')")
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 4})


def test_concurrent_updates_of_one_row(posts, connect, paths):
    insert(posts, paths[:2])
    errors = []

    def work(offset):
        session = connect(autocommit=True)
        for n in range(12):
            try:
                session.execute(
                    "UPDATE posts SET image_path = %s WHERE id = 1", (paths[(offset + n) % 40],)
                )
            except psycopg.Error as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in (3, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 2})


def test_merge_upsert_and_cte(posts, paths):
    """Statements that insert and update at once."""
    insert(posts, paths[:4])
    posts.execute(
        "INSERT INTO posts (id, image_path) SELECT n, p FROM unnest(%s::text[])"
        " WITH ORDINALITY AS u (p, n) ON CONFLICT (id) DO UPDATE SET image_path ="
        " excluded.image_path",
        (paths[10:16],),
    )
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 6})
    posts.execute(
        "MERGE INTO posts AS t USING (SELECT n, p FROM unnest(%s::text[])"
        " WITH ORDINALITY AS u (p, n)) AS s ON s.n = t.id"
        " WHEN MATCHED AND t.id = 2 THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET image_path = s.p"
        " WHEN NOT MATCHED THEN INSERT (id, image_path) VALUES (s.n, s.p)",
        (paths[20:28],),
    )
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 7})
    posts.execute(
        "WITH a AS (UPDATE posts SET image_path = %s WHERE id = 1 RETURNING id),"
        " b AS (INSERT INTO posts (id, image_path) VALUES (50, %s) RETURNING id),"
        " c AS (DELETE FROM posts WHERE id = 3) SELECT * FROM a, b",
        (paths[30], paths[31]),
    )
    assert (wrong(posts), marked(posts), coverage(posts)) == (0, 0, {"embedded": 7})
