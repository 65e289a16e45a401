"""What becomes of an attached table: its columns, owner and files change, or the package goes."""

import os

import psycopg
import pytest

from tests.servers import wait_until

from .conftest import coverage, insert, notices


def problem(db, table="posts"):
    rows = db.execute(
        "SELECT problem FROM visrec.attached WHERE relation = %s::regclass ORDER BY name", (table,)
    )
    return [text for (text,) in rows]


def works(db, paths, table, *, key="id", image="image_path"):
    """INSERT, UPDATE, DELETE, searches, coverage and backfill of ``table`` do what they should."""
    before, first = coverage(db, table), 1000
    db.execute(f"INSERT INTO {table} ({key}, {image}) VALUES ({first}, %s)", (paths[10],))
    db.execute(f"INSERT INTO {table} ({key}, {image}) VALUES ({first + 1}, 'nowhere')")
    assert coverage(db, table).get("failed", 0) == before.get("failed", 0) + 1
    db.execute(f"UPDATE {table} SET {image} = %s WHERE {key} = {first + 1}", (paths[11],))
    after = coverage(db, table)
    assert after["embedded"] == before.get("embedded", 0) + 2
    db.execute(f"DELETE FROM {table} WHERE {key} IN ({first}, {first + 1})")
    assert coverage(db, table) == before
    db.execute(f"CALL visrec.backfill('{table}')")
    assert problem(db, table) == [None]


def wrong_vectors(db, table="posts"):
    """How many rows have the vector of another picture, and are said to be embedded."""
    [(wrong,)] = db.execute(
        "SELECT count(*) FROM (SELECT id, image_path, content_vector AS v"
        f" FROM {table} WHERE content_vector IS NOT NULL OFFSET 0) AS t"
        " WHERE v <=> visrec.embed_image(image_path, 'pixels') > 1e-6"
    )
    return wrong


# 19: triggers of the user's that change the image or the key -------------------------------------

CHANGES = {
    "before visrec's": "a_first",
    "after visrec's": "~~~last",
}


@pytest.mark.parametrize("name", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("names_image", [True, False])
def test_a_trigger_that_changes_the_image(posts, paths, name, names_image):
    """Never the vector of the picture before, called embedded."""
    posts.execute(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.image_path := NEW.title; RETURN NEW; END $$"
    )
    posts.execute(
        f'CREATE TRIGGER "{name}" BEFORE INSERT OR UPDATE ON posts'
        " FOR EACH ROW WHEN (NEW.title IS NOT NULL) EXECUTE FUNCTION other()"
    )
    insert(posts, paths[:3])
    posts.execute("INSERT INTO posts VALUES (4, %s, %s)", (paths[3], paths[4]))
    assert wrong_vectors(posts) == 0
    assert coverage(posts) == {"embedded": 4}
    image = ", image_path = 'nowhere.jpg'" if names_image else ""
    posts.execute(f"UPDATE posts SET title = %s{image} WHERE id = 1", (paths[5],))
    assert coverage(posts) == {"embedded": 4}
    assert wrong_vectors(posts) == 0


@pytest.mark.parametrize("name", CHANGES.values(), ids=CHANGES)
def test_a_trigger_that_changes_the_key(posts, paths, name):
    posts.execute(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$"
    )
    posts.execute(
        f'CREATE TRIGGER "{name}" BEFORE INSERT OR UPDATE ON posts'
        " FOR EACH ROW EXECUTE FUNCTION other()"
    )
    insert(posts, [*paths[:3], "nowhere.jpg"])
    assert coverage(posts) == {"embedded": 3, "failed": 1}
    posts.execute("UPDATE posts SET title = 'x'")  # names neither the key nor the image
    states = coverage(posts)
    assert states.pop("embedded") == 3
    assert sum(states.values()) == 1
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 201", (paths[4],))
    assert coverage(posts)["embedded"] == 3
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"embedded": 3, "failed": 1}
    assert posts.execute("SELECT id FROM failures_posts()").fetchall() != []
    assert posts.execute(
        "SELECT count(*) FROM failures_posts() AS f LEFT JOIN posts AS p USING (id)"
        " WHERE p.id IS NULL"
    ).fetchone() == (0,)
    assert wrong_vectors(posts) == 0


def test_a_trigger_that_swaps_two_keys_behind_an_update(posts, paths):
    """Keys and images change in one statement: each row has the vector of its own picture."""
    insert(posts, paths[:2])
    posts.execute("ALTER TABLE posts DROP CONSTRAINT posts_pkey, ADD PRIMARY KEY (id) DEFERRABLE")
    posts.execute(
        "UPDATE posts SET id = 3 - id, image_path = CASE id WHEN 1 THEN %s ELSE %s END", paths[2:4]
    )
    assert coverage(posts) == {"embedded": 2}
    assert wrong_vectors(posts) == 0


# 20 and files overwritten: what no trigger sees --------------------------------------------------


@pytest.fixture
def raw(db, pictures, paths):
    """A table of pictures as bytea, three of them."""
    db.execute("CREATE TABLE raw (id int PRIMARY KEY, image bytea)")
    db.execute("SELECT visrec.attach('raw', image_column => 'image', model => 'pixels')")
    for n, path in enumerate(paths[:3]):
        db.execute("INSERT INTO raw VALUES (%s, %s)", (n, (pictures / path).read_bytes()))
    return db


def test_bytes_changed_in_the_middle_are_found_by_recheck(raw):
    """BMP is not compressed: another colour in the middle, the same length and ends."""
    from io import BytesIO  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    def picture(colour):
        image = Image.new("RGB", (200, 200), "white")
        image.paste(colour, (50, 80, 150, 120))
        data = BytesIO()
        image.save(data, "BMP")
        return data.getvalue()

    red, blue = picture("red"), picture("blue")
    assert (red[:8192], red[-8192:], len(red)) == (blue[:8192], blue[-8192:], len(blue))
    raw.execute("INSERT INTO raw VALUES (10, %s)", (red,))
    raw.execute("ALTER TABLE raw DISABLE TRIGGER USER")
    raw.execute("UPDATE raw SET image = %s WHERE id = 10", (blue,))
    raw.execute("ALTER TABLE raw ENABLE TRIGGER USER")
    heard = notices(raw)
    assert raw.execute("SELECT visrec.recheck('raw')").fetchone() == (1,)
    assert heard == [
        (
            "NOTICE",
            '1 image of table "public.raw" has changed',
            "CALL visrec.backfill('public.raw');",
        ),
    ]
    assert coverage(raw, "raw") == {"embedded": 3, "stale": 1}
    raw.execute("CALL visrec.backfill('raw')")
    assert coverage(raw, "raw") == {"embedded": 4}
    [(distance,)] = raw.execute(
        "SELECT content_vector <=> visrec.embed_image(image, 'pixels') FROM raw WHERE id = 10"
    ).fetchall()
    assert distance < 1e-6
    assert raw.execute("SELECT visrec.recheck('raw')").fetchone() == (0,)


def test_an_update_of_bytes_in_the_middle_embeds(raw, pictures, paths):
    raw.execute(
        "UPDATE raw SET image = overlay(image PLACING '\\x00'::bytea FROM octet_length(image) / 2)"
    )
    states = coverage(raw, "raw")
    assert sum(states.values()) == 3
    assert raw.execute("SELECT visrec.recheck('raw')").fetchone() == (0,)


def overwrite(path, data):
    path.write_bytes(data)
    path.chmod(0o644)


def test_files_overwritten_in_place_are_found_by_recheck(posts, images, pictures, paths):
    names = [f"{images.name}/{n}.jpg" for n in range(4)]
    for name, path in zip(names, paths, strict=False):
        overwrite(images.parent / name, (pictures / path).read_bytes())
    insert(posts, names)
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (0,)
    os.utime(images.parent / names[0])  # touched: looked at again, and the same
    overwrite(images.parent / names[1], (pictures / paths[20]).read_bytes())
    (images.parent / names[2]).unlink()
    assert coverage(posts) == {"embedded": 4}
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (3,)
    assert coverage(posts) == {"embedded": 1, "stale": 3}
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (0,)
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"embedded": 3, "failed": 1}
    [(distance,)] = posts.execute(
        "SELECT content_vector <=> visrec.embed_image(%s, 'pixels') FROM posts WHERE id = 2",
        (paths[20],),
    ).fetchall()
    assert distance < 1e-6
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (0,)


def test_recheck_of_more_rows_than_it_looks_at_together(posts, images, pictures, paths):
    """1000 at a time; the one that changed is in the last."""
    overwrite(images / "a.jpg", (pictures / paths[0]).read_bytes())
    overwrite(images / "z.jpg", (pictures / paths[0]).read_bytes())
    insert(posts, [f"{images.name}/a.jpg"] * 2100 + [f"{images.name}/z.jpg"])
    overwrite(images / "z.jpg", (pictures / paths[1]).read_bytes())
    assert posts.execute("SELECT visrec.recheck('posts')").fetchone() == (1,)


# 23: generated columns ---------------------------------------------------------------------------


def test_a_generated_image_column(db, paths):
    db.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, folder text, file text, title text,"
        " image_path text GENERATED ALWAYS AS (folder || '/' || file) STORED)"
    )
    db.execute("SELECT visrec.attach('posts', model => 'pixels')")
    for n, path in enumerate(paths[:4]):
        db.execute(
            "INSERT INTO posts (id, folder, file) VALUES (%s, %s, %s)", (n, *path.split("/"))
        )
    assert coverage(db) == {"embedded": 4}
    folder, file = paths[20].split("/")
    db.execute("UPDATE posts SET folder = %s, file = %s WHERE id = 1", (folder, file))
    assert coverage(db) == {"embedded": 4}
    assert wrong_vectors(db) == 0
    stamp = "SELECT xmin::text, content_vector_source FROM posts WHERE id = 2"
    before = db.execute(stamp).fetchone()[1]
    db.execute("UPDATE posts SET title = 'x'")
    assert db.execute(stamp).fetchone()[1] == before
    db.execute("UPDATE posts SET file = NULL WHERE id = 3")
    assert coverage(db) == {"embedded": 3, "no_image": 1}


def test_an_image_column_that_is_generated_from_tableoid_is_refused(db):
    """It changes with the partition, and no UPDATE names a column of it."""
    db.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, file text, image_path text"
        " GENERATED ALWAYS AS (file || (tableoid::bigint % 2)) STORED) PARTITION BY RANGE (id)"
    )
    db.execute("CREATE TABLE posts_1 PARTITION OF posts FOR VALUES FROM (0) TO (10)")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="tableoid"):
        db.execute("SELECT visrec.attach('posts', model => 'pixels')")


def test_a_virtual_generated_image_column_is_refused(db):
    if db.info.server_version < 180000:
        pytest.skip("PostgreSQL before 18 has no virtual generated columns")
    db.execute(
        "CREATE TABLE posts (id bigint PRIMARY KEY, file text,"
        " image_path text GENERATED ALWAYS AS (file) VIRTUAL)"
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        db.execute("SELECT visrec.attach('posts', model => 'pixels')")


# ALTER TABLE -------------------------------------------------------------------------------------

FOLLOWED = {
    "int to bigint": ("ALTER TABLE {t} ALTER id TYPE bigint", {}),
    "int to text": ("ALTER TABLE {t} ALTER id TYPE text", {"key": "id", "text": True}),
    "varchar(100) to varchar(300)": ("ALTER TABLE {t} ALTER image_path TYPE varchar(300)", {}),
    "varchar to text": ("ALTER TABLE {t} ALTER image_path SET DATA TYPE text", {}),
    "several at once": (
        "ALTER TABLE {t} ALTER image_path TYPE text, ALTER id TYPE bigint,"
        " ALTER title TYPE varchar(9)",
        {},
    ),
    "the shown column": ("ALTER TABLE {t} ALTER title TYPE varchar(300)", {}),
    "the key's name": ("ALTER TABLE {t} RENAME id TO number", {"key": "number"}),
    "the image's name": ("ALTER TABLE {t} RENAME COLUMN image_path TO file", {"image": "file"}),
    "the vector's name": ("ALTER TABLE {t} RENAME content_vector TO v", {}),
    "the source's name": ("ALTER TABLE {t} RENAME content_vector_source TO s", {}),
    "the shown column's name": ("ALTER TABLE {t} RENAME title TO caption", {}),
    "the table's name": ("ALTER TABLE {t} RENAME TO articles", {"table": "home.articles"}),
    "the schema": ("ALTER TABLE {t} SET SCHEMA elsewhere", {"table": "elsewhere.posts"}),
    "the schema's name": (
        "ALTER SCHEMA home RENAME TO house",
        {"table": "house.posts", "functions": "house"},
    ),
    "the owner": ("ALTER TABLE {t} OWNER TO visrec_other", {}),
    "another column": ("ALTER TABLE {t} ADD COLUMN more int, DROP COLUMN category", {}),
    "a default": ("ALTER TABLE {t} ALTER title SET DEFAULT 'type'", {}),
}


@pytest.fixture
def home(db, paths):
    """An attached table ``home.posts`` with four rows, one of them failed; a role visrec_other."""
    db.execute("DROP ROLE IF EXISTS visrec_other")
    db.execute("CREATE ROLE visrec_other")
    db.execute("CREATE SCHEMA home")
    db.execute("CREATE SCHEMA elsewhere")
    db.execute("GRANT ALL ON SCHEMA home, elsewhere TO visrec_other")
    db.execute(
        "CREATE TABLE home.posts (id int PRIMARY KEY, image_path varchar(100), title text,"
        " category text)"
    )
    db.execute(
        "SELECT visrec.attach('home.posts', model => 'pixels', show_columns => '{title}',"
        " on_error => 'record')"
    )
    db.execute(
        "INSERT INTO home.posts SELECT n, p, 't'"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        ([*paths[:3], "nowhere.jpg"],),
    )
    yield db
    db.execute("DROP OWNED BY visrec_other CASCADE")
    db.execute("DROP ROLE visrec_other")


@pytest.mark.parametrize("change", FOLLOWED)
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.one_in(3)
def test_an_attachment_follows_its_table(home, paths, change, told):
    """By itself; and where it needed telling, visrec.attach of the table's name is enough."""
    statement, now = FOLLOWED[change]
    if not told:
        home.execute("SELECT visrec.grant_access('visrec_other')")  # which attach would do
    table, key, image = (
        now.get("table", "home.posts"),
        now.get("key", "id"),
        now.get("image", "image_path"),
    )
    home.execute("SET client_min_messages = 'notice'")
    heard = notices(home)
    home.execute(statement.format(t="home.posts"))
    assert [text for severity, text, _ in heard if severity == "WARNING"] == []
    assert "an image but no vector" not in str(heard)  # what failed was told of
    if told:
        home.execute(f"SELECT visrec.attach('{table}')")
    assert problem(home, table) == [None]
    assert coverage(home, table) == {"embedded": 3, "failed": 1}
    if "text" not in now:
        works(home, paths, table, key=key, image=image)
    [(attachment, shown)] = home.execute(
        "SELECT name, show_columns[1] FROM visrec.attached WHERE relation = %s::regclass", (table,)
    ).fetchall()
    assert shell_schema(home, attachment) == now.get("functions", "home")
    first = "'1'" if "text" in now else "1"
    found = home.execute(
        f"SELECT * FROM {shell_schema(home, attachment)}.similar_{attachment}({first})"
    )
    assert [column.name for column in found.description] == ["id", "similarity", image, shown]
    assert len(found.fetchall()) == 2
    failures = home.execute(
        f"SELECT id FROM {shell_schema(home, attachment)}.failures_{attachment}()"
    ).fetchall()
    assert failures == [("4",) if "text" in now else (4,)]


def shell_schema(db, attachment):
    [(schema,)] = db.execute(
        "SELECT pronamespace::regnamespace::text FROM pg_proc WHERE proname = 'similar_' || %s",
        (attachment,),
    ).fetchall()
    return schema


def test_a_rename_in_the_table_is_followed_in_the_same_transaction(home, paths):
    with home.transaction():
        home.execute("ALTER TABLE home.posts RENAME image_path TO file")
        home.execute("INSERT INTO home.posts (id, file) VALUES (9, %s)", (paths[5],))
        home.execute("ALTER TABLE home.posts ALTER file TYPE text")
        home.execute("UPDATE home.posts SET file = %s WHERE id = 9", (paths[6],))
    assert coverage(home, "home.posts") == {"embedded": 4, "failed": 1}


def test_types_change_within_a_transaction_that_is_rolled_back(home, paths):
    home.execute("BEGIN")
    home.execute("ALTER TABLE home.posts ALTER id TYPE bigint")
    home.execute("ROLLBACK")
    works(home, paths, "home.posts")


def test_a_type_that_cannot_change_leaves_the_triggers(home, paths):
    with pytest.raises(psycopg.errors.DatatypeMismatch):
        home.execute("ALTER TABLE home.posts ALTER image_path TYPE int")
    works(home, paths, "home.posts")


def test_migrations_in_functions_and_do_blocks(home, paths):
    """The statement's text is then that of the DO: it names the table all the same."""
    home.execute("DO $$ BEGIN EXECUTE 'ALTER TABLE home.posts ALTER COLUMN id TYPE bigint'; END $$")
    works(home, paths, "home.posts")


GONE = {
    "image": ("ALTER TABLE home.posts DROP COLUMN image_path", 'Column "image_path"'),
    "key": ("ALTER TABLE home.posts DROP COLUMN id", 'Column "id"'),
    "primary key": (
        "ALTER TABLE home.posts DROP CONSTRAINT posts_pkey",
        'Column "id" is no longer the primary key',
    ),
}


def test_types_of_columns_are_renamed_and_moved(home, paths):
    """Nothing needs telling: what names them is written anew."""
    home.execute("CREATE TYPE home.mood AS ENUM ('sad', 'happy')")
    home.execute("CREATE DOMAIN home.number AS integer")
    home.execute(
        "CREATE TABLE home.photos (id home.number PRIMARY KEY, image_path text, mood home.mood)"
    )
    home.execute("SELECT visrec.attach('home.photos', model => 'pixels', show_columns => '{mood}')")
    home.execute(
        "INSERT INTO home.photos SELECT n, p, 'happy'"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        (paths[:3],),
    )
    for statement in (
        "ALTER TYPE home.mood RENAME TO feeling",
        "ALTER DOMAIN home.number RENAME TO counted",
        "ALTER TYPE home.feeling SET SCHEMA elsewhere",
        "ALTER DOMAIN home.counted SET SCHEMA elsewhere",
        "ALTER SCHEMA elsewhere RENAME TO away",
    ):
        home.execute(statement)
        assert problem(home, "home.photos") == [None], statement
        found = home.execute("SELECT id, mood FROM home.similar_photos(1)").fetchall()
        assert sorted(found) == [(2, "happy"), (3, "happy")], statement
        works(home, paths, "home.photos")


def test_the_extension_of_a_type_is_moved(home, paths):
    if not home.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'citext'").fetchone():
        pytest.skip("this PostgreSQL comes without citext")
    home.execute("CREATE EXTENSION citext SCHEMA home")
    home.execute("CREATE TABLE home.tags (id home.citext PRIMARY KEY, image_path text)")
    home.execute("SELECT visrec.attach('home.tags', model => 'pixels')")
    home.execute("INSERT INTO home.tags VALUES ('a', %s), ('b', %s)", paths[:2])
    home.execute("ALTER EXTENSION citext SET SCHEMA elsewhere")
    assert home.execute("SELECT id FROM home.similar_tags('A')").fetchall() == [("b",)]
    home.execute("INSERT INTO home.tags VALUES ('c', %s)", (paths[2],))
    home.execute("UPDATE home.tags SET image_path = %s WHERE id = 'B'", (paths[3],))
    assert coverage(home, "home.tags") == {"embedded": 3}


@pytest.mark.parametrize("place", ["the table", "a partition"])
def test_updates_are_looked_at_where_a_trigger_may_change_the_image(db, paths, place):
    """Other tables pay nothing for an UPDATE that leaves the image alone."""
    db.execute("CREATE TABLE posts (id int PRIMARY KEY, image_path text) PARTITION BY HASH (id)")
    db.execute("CREATE TABLE part PARTITION OF posts FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    db.execute("SELECT visrec.attach('posts', model => 'pixels')")
    definition = (
        "SELECT count(*) = 8 FROM pg_trigger WHERE tgrelid = 'posts'::regclass"
        " AND NOT tgisinternal AND tgname LIKE '%visrec%'"
    )
    assert db.execute(definition).fetchall() == [(False,)]
    db.execute("CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    table = "posts" if place == "the table" else "part"
    event = "BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION same()"
    db.execute(f"CREATE TRIGGER later AFTER UPDATE ON {table} EXECUTE FUNCTION same()")
    assert db.execute(definition).fetchall() == [(False,)]
    db.execute("CREATE TRIGGER touch " + event.format(table))
    assert db.execute(definition).fetchall() == [(True,)]
    db.execute(f"DROP TRIGGER touch ON {table}")
    db.execute("SELECT visrec.attach('posts')")
    assert db.execute(definition).fetchall() == [(False,)]
    assert problem(db) == [None]


def test_a_shown_column_that_is_dropped_is_shown_no_more(home, paths):
    home.execute("ALTER TABLE home.posts DROP COLUMN title")
    assert [c.name for c in home.execute("SELECT * FROM home.similar_posts(1)").description] == [
        "id",
        "similarity",
        "image_path",
    ]
    home.execute("INSERT INTO home.posts (id, image_path) VALUES (77, %s)", (paths[0],))


@pytest.mark.parametrize("gone", GONE)
def test_what_is_gone_is_said_where_it_is_missed(home, paths, gone):
    """In searches, in coverage, and in INSERT, whose rows are kept; with the call that mends it."""
    statement, detail = GONE[gone]
    mends = "SELECT visrec.attach('home.posts');"
    if gone == "image":
        mends = (
            "SELECT visrec.attach('home.posts', image_column => …);"
            " or SELECT visrec.detach('home.posts');"
        )
    try:
        home.execute(statement)
    except psycopg.errors.DependentObjectsStillExist:  # a trigger names it
        home.execute(statement + " CASCADE")
    calls = [
        "SELECT * FROM home.similar_posts(1)",
        "SELECT * FROM home.recommend_posts('{1}')",
        "SELECT * FROM home.failures_posts()",
        "SELECT visrec.retry('home.posts')",
        "CALL visrec.backfill('home.posts')",
        "SELECT * FROM visrec.recall('home.posts')",
        "SELECT * FROM visrec.tune('home.posts')",
    ]
    for call in calls:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
            home.execute(call)
        diag = raised.value.diag
        assert diag.message_primary == 'table "home.posts" has changed since it was attached', call
        assert diag.message_detail.startswith(detail)
        assert diag.message_hint == mends
    heard = notices(home)
    assert home.execute("SELECT * FROM visrec.coverage('home.posts')").fetchall() == []
    column = "category" if gone == "key" else "id"
    home.execute(f"INSERT INTO home.posts ({column}) VALUES ('77')")
    assert heard == [
        ("WARNING", 'table "home.posts" has changed since it was attached', mends),
        ("WARNING", 'rows of table "home.posts" are kept without a vector', mends),
    ]
    if gone != "image":
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            home.execute("UPDATE home.posts SET image_path = 'other'")
    home.execute("DELETE FROM home.posts WHERE category = '77'")
    home.execute("UPDATE visrec.attachment SET on_error = 'raise'")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        home.execute(f"INSERT INTO home.posts ({column}) VALUES ('78')")
    home.execute("UPDATE visrec.attachment SET on_error = 'record'")
    image = "image_path"
    if gone == "shown":
        home.execute("SELECT visrec.attach('home.posts', show_columns => '{}')")
    elif gone == "image":
        image = "file"
        home.execute("ALTER TABLE home.posts ADD COLUMN file text")
        home.execute("SELECT visrec.attach('home.posts', image_column => 'file')")
    else:
        if gone == "key":
            home.execute("ALTER TABLE home.posts ADD COLUMN id serial")
        home.execute("ALTER TABLE home.posts ADD PRIMARY KEY (id)")
        home.execute("SELECT visrec.attach('home.posts')")
    home.execute("CALL visrec.backfill('home.posts')")
    works(home, paths, "home.posts", image=image)


@pytest.mark.parametrize("column", ["content_vector", "content_vector_source"])
def test_a_dropped_column_of_vectors_comes_back_empty(home, paths, column):
    """When attach is called again, and not before; no vector without its source counts."""
    heard = notices(home)
    home.execute(f"ALTER TABLE home.posts DROP COLUMN {column} CASCADE")
    assert [hint for severity, _, hint in heard if severity == "WARNING"] == [
        "SELECT visrec.attach('home.posts');"
    ]
    assert problem(home, "home.posts") == [f'column "{column}" no longer exists']
    home.execute("INSERT INTO home.posts VALUES (5, %s)", (paths[4],))
    home.execute("DELETE FROM home.posts WHERE id = 5")
    home.execute("SELECT visrec.attach('home.posts')")
    assert problem(home, "home.posts") == [None]
    if column == "content_vector":
        states = coverage(home, "home.posts")
        assert states.pop("embedded", 0) == 0
        assert sum(states.values()) == 4
    home.execute("CALL visrec.backfill('home.posts')")
    assert coverage(home, "home.posts") == {"embedded": 3, "failed": 1}
    works(home, paths, "home.posts")
    home.execute("SELECT visrec.detach('home.posts', drop_vectors => true)")
    left = home.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'home.posts'::regclass"
        " AND attname LIKE 'content%' AND NOT attisdropped"
    )
    assert left.fetchone() == (0,)


def test_detached_and_attached_again_no_row_has_the_vector_of_another_picture(posts, paths):
    insert(posts, paths[:4])
    posts.execute("SELECT visrec.detach('posts')")
    posts.execute("UPDATE posts SET image_path = %s WHERE id = 2", (paths[9],))
    posts.execute("UPDATE posts SET image_path = NULL WHERE id = 3")
    heard = notices(posts)
    posts.execute("SET client_min_messages = notice")
    posts.execute("SELECT visrec.attach('posts', model => 'pixels')")
    assert [text for _, text, _ in heard] == [
        '2 rows of table "public.posts" had the vectors of other images',
        '1 row of table "public.posts" has an image but no vector',
    ]
    assert coverage(posts) == {"embedded": 2, "pending": 1, "no_image": 1}
    assert [key for key, *_ in posts.execute("SELECT * FROM similar_posts(1)")] == [4]
    assert wrong_vectors(posts) == 0


def test_a_second_detach_says_how_to_remove_the_vectors(posts):
    posts.execute("ALTER TABLE posts RENAME content_vector TO v")
    posts.execute("SELECT visrec.detach('posts')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        posts.execute("SELECT visrec.detach('posts', drop_vectors => true)")
    hint = raised.value.diag.message_hint
    assert hint.startswith("To remove its vectors: ALTER TABLE ")
    posts.execute(hint.removeprefix("To remove its vectors: "))
    columns = posts.execute("SELECT * FROM posts").description
    assert [c.name for c in columns] == ["id", "image_path", "title", "category"]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
        posts.execute("SELECT visrec.detach('posts')")
    assert raised.value.diag.message_hint == "SELECT visrec.attach('public.posts');"


def test_a_shown_column_that_gets_a_reserved_name_is_shown_no_more(home, paths):
    heard = notices(home)
    home.execute("ALTER TABLE home.posts RENAME title TO strict")
    assert [text for severity, text, _ in heard if severity == "WARNING"] == [
        'column "strict" of table "home.posts" is no longer shown'
    ]
    assert problem(home, "home.posts") == [None]
    assert home.execute("SELECT * FROM home.similar_posts(1)").fetchone()[2] in paths
    works(home, paths, "home.posts")


def test_a_view_of_a_search_keeps_the_old_names_and_works(home, paths):
    home.execute("CREATE VIEW alike AS SELECT s.* FROM home.similar_posts(1) AS s")
    home.execute("ALTER TABLE home.posts RENAME image_path TO file")
    assert len(home.execute("SELECT * FROM alike").fetchall()) == 2
    assert len(home.execute("SELECT * FROM home.recommend_posts('{1}')").fetchall()) == 2
    home.execute("INSERT INTO home.posts (id, file) VALUES (77, %s)", (paths[5],))
    home.execute("DROP VIEW alike")
    home.execute("SELECT visrec.attach('home.posts')")
    works(home, paths, "home.posts", image="file")


@pytest.fixture
def events(home):
    home.execute("CREATE TABLE home.likes (who text, post int, weight real, at timestamptz)")
    home.execute("INSERT INTO home.likes VALUES ('ann', 1, 1, now())")
    home.execute(
        "SELECT visrec.attach_events('home.posts', 'home.likes', user_column => 'who',"
        " item_column => 'post')"
    )
    return home


def recommended(db):
    return sorted(key for key, *_ in db.execute("SELECT * FROM home.recommend_posts_for('ann')"))


def test_events_are_followed_when_they_are_renamed(events):
    assert recommended(events) == [2, 3]
    for statement in (
        "ALTER TABLE home.likes RENAME who TO name",
        "ALTER TABLE home.likes RENAME post TO item",
        "ALTER TABLE home.likes RENAME at TO moment",
        "ALTER TABLE home.likes RENAME TO hearts",
        "ALTER TABLE home.posts DROP COLUMN title",
        "ALTER TABLE home.hearts ALTER name TYPE varchar(20)",
        "SELECT visrec.attach('home.posts')",
    ):
        events.execute(statement)
        assert problem(events, "home.posts") == [None], statement
        assert recommended(events) == [2, 3], statement


def test_a_dropped_column_of_events_is_said(events):
    events.execute("ALTER TABLE home.likes DROP COLUMN who")
    gone = 'column "who" of the table of events no longer exists'
    assert problem(events, "home.posts") == [gone]
    with pytest.raises(psycopg.errors.UndefinedColumn) as raised:
        recommended(events)
    assert "user_column => …" in raised.value.diag.message_hint
    assert coverage(events, "home.posts") == {"embedded": 3, "failed": 1}
    heard = notices(events)
    events.execute("ALTER TABLE home.posts DROP COLUMN title")
    assert [hint for severity, _, hint in heard if severity == "WARNING"] == [
        "SELECT visrec.attach_events('home.posts', …);"
    ]


def test_a_dropped_table_of_events_is_forgotten(events):
    events.execute("DROP TABLE home.likes")
    assert events.execute("SELECT events, problem FROM visrec.attached").fetchall() == [
        (None, None)
    ]
    with pytest.raises(psycopg.errors.UndefinedTable) as raised:
        recommended(events)
    assert "visrec.attach_events" in raised.value.diag.message_hint


# Attaching again ---------------------------------------------------------------------------------


def settings(db, name="posts"):
    return db.execute(
        "SELECT image_column, vector_column, model, mode, on_error, show_columns, index_method"
        " FROM visrec.attached WHERE name = %s",
        (name,),
    ).fetchone()


def test_attaching_again_changes_only_what_is_named(posts, paths):
    insert(posts, paths[:3])
    posts.execute("ALTER TABLE posts ADD COLUMN other text")
    expected = ["image_path", "content_vector", "pixels", "sync", "record", [], "hnsw"]
    assert list(settings(posts)) == expected
    for argument, value, place in (
        ("on_error", "raise", 4),
        ("show_columns", ["title", "category"], 5),
        ("image_column", "other", 0),
        ("vector_column", "other_vector", 1),
        ("on_error", "record", 4),
    ):
        posts.execute(f"SELECT visrec.attach('posts', {argument} => %s)", (value,))
        expected[place] = value
        assert list(settings(posts)) == expected
    posts.execute("CALL visrec.reindex('posts', 'hnsw_half')")
    expected[6] = "hnsw_half"
    posts.execute("SELECT visrec.attach('posts')")
    posts.execute("ALTER TABLE posts RENAME other TO image")
    expected[0] = "image"
    posts.execute("SELECT visrec.attach('posts', name => 'posts')")
    assert list(settings(posts)) == expected


def test_a_second_image_column_for_the_same_attachment_takes_the_vectors_away(posts, paths):
    """They are of the first column's pictures. Not silently; backfill embeds the other column."""
    insert(posts, paths[:3])
    posts.execute("ALTER TABLE posts ADD COLUMN back text")
    posts.execute("UPDATE posts SET back = %s", (paths[9],))
    heard = notices(posts)
    posts.execute("SELECT visrec.attach('posts', image_column => 'back')")
    assert [(text, hint) for _, text, hint in heard] == [
        (
            'attachment "posts" now embeds column "back"',
            "To embed both, attach with another name and vector_column.",
        ),
        ('3 rows of table "public.posts" had the vectors of other images', None),
        (
            '3 rows of table "public.posts" have an image but no vector',
            "CALL visrec.backfill('public.posts');",
        ),
    ]
    assert coverage(posts) == {"pending": 3}
    posts.execute("CALL visrec.backfill('posts')")
    assert coverage(posts) == {"embedded": 3}
    posts.execute("UPDATE posts SET image_path = 'nowhere'")  # which means nothing any more
    assert coverage(posts) == {"embedded": 3}


def test_several_attachments_of_one_table(posts, paths):
    posts.execute("ALTER TABLE posts ADD COLUMN back text")
    posts.execute(
        "SELECT visrec.attach('posts', 'back', 'back_vector', 'pixels', name => 'posts_back')"
    )
    posts.execute(
        "INSERT INTO posts (id, image_path, back)"
        " VALUES (1, %s, %s), (2, %s, %s), (3, 'nowhere', %s), (4, %s, NULL)",
        (paths[0], paths[1], paths[1], paths[0], paths[2], paths[3]),
    )

    def states(name):
        rows = posts.execute("SELECT * FROM visrec.coverage('posts', %s) WHERE rows > 0", (name,))
        return dict(rows.fetchall())

    assert states("posts") == coverage(posts) == {"embedded": 3, "failed": 1}
    assert states("posts_back") == {"embedded": 3, "no_image": 1}
    [(same,)] = posts.execute(
        "SELECT (SELECT content_vector FROM posts WHERE id = 1)"
        " <=> (SELECT back_vector FROM posts WHERE id = 2)"
    )
    assert same < 1e-6
    assert sorted(posts.execute("SELECT id FROM similar_posts(1)").fetchall()) == [(2,), (4,)]
    assert sorted(posts.execute("SELECT id FROM similar_posts_back(1)").fetchall()) == [(2,), (3,)]
    assert posts.execute("SELECT id FROM failures_posts()").fetchall() == [(3,)]
    assert posts.execute("SELECT id FROM failures_posts_back()").fetchall() == []
    posts.execute("UPDATE posts SET back = 'gone' WHERE id = 1")
    assert posts.execute("SELECT id FROM failures_posts_back()").fetchall() == [(1,)]
    assert states("posts") == {"embedded": 3, "failed": 1}
    posts.execute("UPDATE posts SET image_path = %s, back = %s WHERE id IN (1, 3)", paths[4:6])
    assert states("posts") == {"embedded": 4}
    assert states("posts_back") == {"embedded": 3, "no_image": 1}
    posts.execute("ALTER TABLE posts DISABLE TRIGGER USER")
    posts.execute("UPDATE posts SET back = %s WHERE id = 4", (paths[6],))
    posts.execute("ALTER TABLE posts ENABLE TRIGGER USER")
    posts.execute("CALL visrec.backfill('posts')")
    assert states("posts_back") == {"embedded": 3, "pending": 1}
    posts.execute("CALL visrec.backfill('posts', name => 'posts_back')")
    assert states("posts_back") == {"embedded": 4}
    posts.execute("SELECT visrec.detach('posts', true, 'posts')")
    assert states("posts_back") == {"embedded": 4}
    posts.execute("INSERT INTO posts (id, back) VALUES (9, %s)", (paths[7],))
    assert states("posts_back") == {"embedded": 5}


def test_two_attachments_do_not_share_a_vector_column(posts):
    with pytest.raises(psycopg.errors.DuplicateObject) as raised:
        posts.execute("SELECT visrec.attach('posts', name => 'again', model => 'pixels')")
    assert '"content_vector"' in raised.value.diag.message_primary
    assert "vector_column" in raised.value.diag.message_hint


def test_two_tables_do_not_share_a_name(posts):
    posts.execute("CREATE TABLE others (id int PRIMARY KEY, image_path text)")
    with pytest.raises(psycopg.errors.DuplicateObject):
        posts.execute("SELECT visrec.attach('others', name => 'posts', model => 'pixels')")
    assert posts.execute("SELECT count(*) FROM visrec.attached").fetchone() == (1,)


def test_nested_attachments_get_their_own_vectors(posts, paths):
    """A trigger that inserts into another attached table while the statement goes on."""
    posts.execute("CREATE TABLE gallery (id bigint PRIMARY KEY, image_path text)")
    posts.execute("SELECT visrec.attach('gallery', model => 'pixels')")
    posts.execute(
        "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO gallery VALUES (NEW.id, NEW.image_path); RETURN NULL; END $$"
    )
    posts.execute(
        "CREATE TRIGGER copy AFTER UPDATE OF content_vector ON posts FOR EACH ROW"
        " WHEN (NEW.content_vector IS NOT NULL) EXECUTE FUNCTION copy()"
    )
    insert(posts, paths * 6)
    assert coverage(posts) == coverage(posts, "gallery") == {"embedded": 6 * len(paths)}
    assert posts.execute(
        "SELECT count(*) FROM posts AS p JOIN gallery AS g USING (id)"
        " WHERE p.content_vector <=> g.content_vector > 1e-6"
    ).fetchone() == (0,)


# A fresh session of an ordinary role -------------------------------------------------------------

PUBLIC_API = {
    "attach": "SELECT visrec.attach('mine', on_error => 'record')",
    "attach_events": "SELECT visrec.attach_events('mine', 'events')",
    "backfill": "CALL visrec.backfill('mine')",
    "coverage": "SELECT * FROM visrec.coverage('mine')",
    "detach": "SELECT visrec.detach('mine')",
    "duplicates": "SELECT * FROM visrec.duplicates('mine', 5, 2)",
    "embed_image": "SELECT visrec.embed_image({path}, 'pixels')",
    "embed_text": None,  # pixels has no text tower
    "evaluate": "SELECT * FROM visrec.evaluate('mine', 'label')",
    "evaluate_taste": "SELECT * FROM visrec.evaluate_taste('mine', 'events')",
    "failures": "SELECT * FROM visrec.failures('mine')",
    "recall": "SELECT * FROM visrec.recall('mine')",
    "recheck": "SELECT visrec.recheck('mine')",
    "reduce": "SELECT * FROM visrec.reduce('mine', 4)",
    "reindex": "CALL visrec.reindex('mine', 'hnsw')",
    "retry": "SELECT visrec.retry('mine')",
    "tune": "SELECT * FROM visrec.tune('mine')",
    "taste": "SELECT visrec.taste('mine', '{{1,2}}'::bigint[])",
    # For the extension's owner, or with the right to monitor
    "encoder_restart": None,
    "encoder_status": None,
    "encoder_warm": None,
    "grant_access": None,
    "register_model": None,
    "revoke_access": None,
    "selftest": None,
    "set": None,
}
SHELLS = {
    "similar": "SELECT * FROM similar_mine(1)",
    "similar with a filter": 'SELECT * FROM similar_mine(1, 3, \'{{"label": "a"}}\')',
    "search": "SELECT * FROM search_mine_by_image({path})",
    "search bytes": "SELECT * FROM search_mine_by_image({data}::bytea)",
    "recommend": "SELECT * FROM recommend_mine('{{1,2}}')",
    "recommend diverse": "SELECT * FROM recommend_mine('{{1,2}}', diversity => 0.5)",
    "recommend best": "SELECT * FROM recommend_mine('{{1,2}}', '{{3}}', strategy => 'best_score')",
    "recommend weighted": "SELECT * FROM recommend_mine_weighted('[[1, 1]]')",
    "recommend for": "SELECT * FROM recommend_mine_for(1)",
    "duplicates": "SELECT * FROM duplicates_mine(5, 2)",
    "failures": "SELECT * FROM failures_mine()",
    "insert": "INSERT INTO mine VALUES (100, {path})",
    "update": "UPDATE mine SET image_path = {path} WHERE id = 2",
    "delete": "DELETE FROM mine WHERE id = 3",
    "truncate": "TRUNCATE mine",
    "attached": "SELECT * FROM visrec.attached",
    "failure": "SELECT * FROM visrec.failure",
    "new table": "CREATE TABLE newer (id int PRIMARY KEY, image_path text);"
    "SELECT visrec.attach('newer', model => 'pixels')",
    "alter": "ALTER TABLE mine ALTER image_path TYPE varchar(300)",
    "rename": "ALTER TABLE mine RENAME image_path TO file",
    "drop": "DROP TABLE mine",
}


@pytest.fixture
def ordinary(db, paths):
    """Opens sessions of a role that is no superuser and owns an attached table ``mine``."""
    db.execute("DROP ROLE IF EXISTS visrec_ordinary")
    db.execute("CREATE ROLE visrec_ordinary LOGIN PASSWORD 'x'")
    db.execute("SELECT visrec.grant_access('visrec_ordinary')")
    db.execute("GRANT CREATE ON SCHEMA public TO visrec_ordinary")

    def session():
        return psycopg.connect(db.info.dsn, user="visrec_ordinary", password="x", autocommit=True)

    with session() as own:
        own.execute("CREATE TABLE mine (id bigint PRIMARY KEY, image_path text, label text)")
        own.execute("SELECT visrec.attach('mine', model => 'pixels')")
        own.execute(
            "INSERT INTO mine SELECT n, p, split_part(p, '/', 1)"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
            (paths[:12],),
        )
        own.execute(
            "CREATE TABLE events (user_id int, post_id bigint, weight float, at timestamptz)"
        )
        own.execute(
            "INSERT INTO events SELECT 1, n, 1, now() + n * interval '1 s'"
            " FROM generate_series(1, 4) AS n"
        )
        own.execute("SELECT visrec.attach_events('mine', 'events')")
    yield session
    db.execute("DROP OWNED BY visrec_ordinary CASCADE")
    db.execute("DROP ROLE visrec_ordinary")


def test_the_public_functions_are_those_listed_here(db):
    found = db.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'visrec'::regnamespace"
        " AND proname !~ '^_'"
    ).fetchall()
    assert {name for (name,) in found} == set(PUBLIC_API)


@pytest.mark.parametrize(
    "what",
    [f"visrec {name}" for name, call in PUBLIC_API.items() if call]
    + [f"own {name}" for name in SHELLS],
)
@pytest.mark.one_in(4)
def test_each_call_is_the_first_of_its_session(ordinary, pictures, paths, what):
    """pgvector's library, which knows its settings, is not loaded yet."""
    place, name = what.split(" ", 1)
    call = {"visrec": PUBLIC_API, "own": SHELLS}[place][name].format(
        path=f"'{paths[20]}'", data=f"'\\x{(pictures / paths[20]).read_bytes().hex()}'"
    )
    with ordinary() as session:
        for statement in call.split(";"):
            session.execute(statement)


# Sessions that are canceled, transactions, the package -------------------------------------------


def test_a_timeout_is_said_in_the_servers_own_words(posts, paths):
    posts.execute("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        insert(posts, paths * 100)
    assert raised.value.diag.message_primary == "canceling statement due to statement timeout"
    posts.execute("SET statement_timeout = 0")
    assert coverage(posts) == {}
    posts.execute("ALTER TABLE posts DISABLE TRIGGER USER")
    insert(posts, paths * 100)
    posts.execute("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        posts.execute("CALL visrec.backfill('posts', batch_size => 5000)")
    assert raised.value.diag.message_primary == "canceling statement due to statement timeout"


def test_a_cancel_is_said_in_the_servers_own_words(posts, paths, connect):
    import threading  # noqa: PLC0415

    pid = posts.info.backend_pid
    other = connect(autocommit=True)

    def cancel():
        running = (
            "SELECT FROM pg_stat_activity WHERE pid = %s AND query ~ '^INSERT' AND state = 'active'"
        )
        wait_until(lambda: other.execute(running, (pid,)).fetchall())
        other.execute("SELECT pg_cancel_backend(%s)", (pid,))

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        insert(posts, paths * 200)
    thread.join()
    assert raised.value.diag.message_primary == "canceling statement due to user request"
    assert coverage(posts) == {}


def test_backfill_inside_a_transaction_block_says_what_to_do(posts, paths):
    posts.execute("BEGIN")
    with pytest.raises(psycopg.errors.InvalidTransactionTermination) as raised:
        posts.execute("CALL visrec.backfill('posts')")
    diag = raised.value.diag
    assert diag.message_primary == "visrec.backfill cannot run inside a transaction block"
    assert diag.message_detail == "It commits after each batch."
    assert "outside BEGIN" in diag.message_hint
    posts.execute("ROLLBACK")
    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        posts.execute(
            "DO $$ BEGIN PERFORM 1; BEGIN CALL visrec.backfill('posts');"
            " EXCEPTION WHEN division_by_zero THEN NULL; END; END $$"
        )
    insert(posts, paths[:2])
    posts.execute("DO $$ BEGIN CALL visrec.backfill('posts'); END $$")  # no block of a transaction


PACKAGE = (
    "SELECT substring(prosrc FROM 'insert\\(0, \"([^\"]+)\"') FROM pg_proc WHERE proname = '_embed'"
)


def move_package(db, before, after):
    """Has the wrappers look for the Python package elsewhere; for sessions to come."""
    db.execute(
        "UPDATE pg_proc SET prosrc = replace(prosrc, %s, %s)"
        " WHERE pronamespace = 'visrec'::regnamespace AND strpos(prosrc, %s) > 0",
        (f'"{before}"', f'"{after}"', f'"{before}"'),
    )


@pytest.fixture
def uninstalled(posts, paths, connect):
    """A session as after `make uninstall`: the Python package cannot be imported."""
    insert(posts, paths[:2])
    [(package,)] = posts.execute(PACKAGE).fetchall()
    move_package(posts, package, "/nowhere")
    session = connect(autocommit=True)
    session.package = package
    return session


MISSING = "the Python package visrec_db is not installed on the server"


def test_rows_are_kept_where_the_package_is_gone(uninstalled, posts, paths):
    with uninstalled as session:
        heard = notices(session)
        insert(session, paths[2:5], first=10)
        assert [severity for severity, _, _ in heard] == ["WARNING"]
        assert coverage(session) == {"embedded": 2, "failed": 3}
        assert session.execute("SELECT DISTINCT code, message FROM visrec.failure").fetchall() == [
            ("encoder_unavailable", MISSING)
        ]
        session.execute("UPDATE posts SET image_path = %s WHERE id = 10", (paths[6],))
        assert coverage(session) == {"embedded": 2, "failed": 3}
        session.execute("UPDATE posts SET title = 'x'")
        session.execute("DELETE FROM posts WHERE id = 10")
        assert coverage(session) == {"embedded": 2, "failed": 2}
        assert session.execute("SELECT visrec.retry('posts')").fetchone() == (0,)
        assert session.execute("SELECT id FROM similar_posts(2)").fetchall() == [(1,)]
        for call in (
            "CALL visrec.backfill('posts')",
            "SELECT visrec.embed_image('x.jpg', 'pixels')",
            "SELECT * FROM search_posts_by_image('x.jpg')",
            "SELECT visrec.recheck('posts')",
            "SELECT visrec.encoder_warm('pixels')",
            "SELECT visrec.encoder_restart()",
            "SELECT * FROM visrec.duplicates('posts', 5, 2)",
        ):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
                session.execute(call)
            said = f"{raised.value.diag.message_primary} {raised.value.diag.message_detail}"
            assert MISSING[1:] in said, (call, said)
            assert raised.value.diag.message_hint is not None
        assert session.execute("SELECT * FROM visrec.encoder_status()").fetchall() == []
        [(result,)] = session.execute(
            "SELECT result FROM visrec.selftest() WHERE \"check\" = 'model pixels'"
        ).fetchall()
        assert result == MISSING
        session.execute("TRUNCATE posts")
        session.execute("DROP TABLE posts")


def test_rows_heal_when_the_package_is_back(uninstalled, posts, paths, connect):
    insert(uninstalled, paths[2:5], first=10)
    assert coverage(posts) == {"embedded": 2, "failed": 3}
    assert uninstalled.execute("SELECT visrec.retry('posts')").fetchone() == (0,)
    move_package(posts, "/nowhere", uninstalled.package)
    assert uninstalled.execute("SELECT visrec.retry('posts')").fetchone() == (3,)
    assert coverage(posts) == {"embedded": 5}


def test_on_error_raise_says_that_the_package_is_gone(uninstalled, posts, paths):
    with uninstalled as session:
        session.execute("SELECT visrec.attach('posts', on_error => 'raise')")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as raised:
            insert(session, paths[2:5], first=10)
        assert MISSING[1:] in raised.value.diag.message_detail
        session.execute("UPDATE posts SET title = 'x'")


# Names of results, and what is remembered --------------------------------------------------------


def test_results_are_named_as_they_are_documented(posts, paths):
    insert(posts, paths[:12])
    posts.execute("CREATE TABLE likes (who int, what bigint, good float, moment timestamptz)")
    posts.execute(
        "INSERT INTO likes SELECT 1, n, 1, now() + n * interval '1 s'"
        " FROM generate_series(1, 6) AS n"
    )
    posts.execute("SELECT visrec.attach_events('posts', 'likes', 'who', 'what', 'good', 'moment')")
    columns = [
        c.name
        for c in posts.execute("SELECT * FROM visrec.evaluate('posts', 'category')").description
    ]
    assert columns == ["label", "k", "queries", "precision", "recall", "map", "ndcg", "hit_rate"]
    assert posts.execute("SELECT users FROM visrec.evaluate_taste('posts') LIMIT 1").fetchone() == (
        1,
    )
    posts.execute("ALTER TABLE likes RENAME TO hearts")
    assert posts.execute("SELECT users FROM visrec.evaluate_taste('posts') LIMIT 1").fetchone() == (
        1,
    )
    kind = posts.execute("SELECT pg_typeof(id_a)::text FROM duplicates_posts(5, 2) LIMIT 1")
    assert kind.fetchone() == ("bigint",)
    posts.execute("INSERT INTO posts (id, image_path) VALUES (99, 'nowhere')")
    joined = posts.execute("SELECT p.image_path FROM failures_posts() JOIN posts AS p USING (id)")
    assert joined.fetchall() == [("nowhere",)]
