"""No row has the vector of another picture, whatever was renamed, copied, moved or attached."""

import shutil

import psycopg
import pytest

from .conftest import coverage, notices

LONG = "the_vectors_of_the_pictures_of_this_table_by_the_model_pixels"


@pytest.fixture
def two(db, images, pictures, paths):
    """A connection; 7.jpg and 7.0.jpg are two different pictures in the image roots."""
    shutil.copy(pictures / paths[0], images / "7.jpg")
    shutil.copy(pictures / paths[-1], images / "7.0.jpg")
    db.execute("SELECT visrec.set('image_roots', %s)", (str(images),))
    return db


def wrong(db, table, *, image="image_path", vector="content_vector", key="id"):
    """The keys of rows that have the vector of another picture."""
    rows = db.execute(
        f"SELECT {key} FROM (SELECT {key}, {image}, {vector} FROM {table}"
        f" WHERE {vector} IS NOT NULL OFFSET 0) AS t"
        f" WHERE {image} IS NULL OR {vector} <=> visrec.embed_image({image}, 'pixels') > 1e-6"
        f" ORDER BY {key}"
    )
    return [key for (key,) in rows]


def warnings(heard):
    return [text for severity, text, _ in heard if severity == "WARNING"]


def middle(colour):
    """A picture of 40 kB as bytes: another colour in its middle alone."""
    ends = "ff0000" * 3000
    return b"P6\n100 100\n255\n" + bytes.fromhex(ends + colour * 4000 + ends)


# Columns that are renamed elsewhere ---------------------------------------------------------------

ELSEWHERE = {
    "a parent": (
        "CREATE TABLE parent (id int, image_path text);"
        " CREATE TABLE t (PRIMARY KEY (id)) INHERITS (parent)",
        "ALTER TABLE parent RENAME image_path TO photo; ALTER TABLE parent ADD image_path text",
    ),
    "a parent's parent": (
        "CREATE TABLE top (id int, image_path text); CREATE TABLE parent () INHERITS (top);"
        " CREATE TABLE t (PRIMARY KEY (id)) INHERITS (parent)",
        "ALTER TABLE top RENAME image_path TO photo; ALTER TABLE top ADD image_path text",
    ),
    "a type": (
        "CREATE TYPE made_of AS (id int, image_path text, content_vector vector(512),"
        " content_vector_source bigint[]); CREATE TABLE t OF made_of (PRIMARY KEY (id))",
        "ALTER TYPE made_of RENAME ATTRIBUTE image_path TO photo CASCADE;"
        " ALTER TYPE made_of ADD ATTRIBUTE image_path text CASCADE",
    ),
}


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("how", ELSEWHERE)
def test_an_image_column_that_is_renamed_elsewhere(two, how, followed):
    """Nothing that is written later takes the column that has its name now."""
    made, renamed = ELSEWHERE[how]
    two.execute(made)
    two.execute("SELECT visrec.attach('t', model => 'pixels')")
    two.execute("INSERT INTO t (id, image_path) VALUES (1, '7.jpg'), (2, '7.0.jpg')")
    if not followed:
        two.execute("ALTER EVENT TRIGGER visrec_follow_table DISABLE")
    two.execute(renamed)
    two.execute("SELECT * FROM visrec.tune('t', '1 second')")
    line = "SELECT image_column, problem FROM visrec.attached"
    assert two.execute(line).fetchone() == ("photo", None)
    two.execute("UPDATE t SET photo = '7.jpg' WHERE id = 2")
    two.execute("CALL visrec.backfill('t')")
    assert wrong(two, "t", image="photo") == []
    assert coverage(two, "t") == {"embedded": 2}
    two.execute("SELECT visrec.attach('t')")
    assert two.execute(line).fetchone() == ("photo", None)
    assert coverage(two, "t") == {"embedded": 2}


def test_a_transaction_from_before_attach_leaves_no_vector_of_another_picture(two, connect):
    """Attached before and again, so that there are vectors; it sees neither the attachment nor its
    triggers, which run."""
    two.execute("CREATE TABLE t (id int PRIMARY KEY, image bytea)")
    two.execute("SELECT visrec.attach('t', 'image', model => 'pixels')")
    two.execute("INSERT INTO t VALUES (1, %s)", (middle("00ff00"),))
    two.execute("SELECT visrec.detach('t')")
    other = connect()
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("SELECT 1 FROM pg_class")  # the table itself would hold up attach
    two.execute("SELECT visrec.attach('t', 'image', model => 'pixels')")
    change = "UPDATE t SET image = %s"
    with pytest.raises(psycopg.errors.SerializationFailure, match="attached after this transact"):
        other.execute(change, (middle("0000ff"),))
    other.rollback()
    other.execute(change, (middle("0000ff"),))
    other.commit()
    assert wrong(two, "t", image="image") == []
    assert coverage(two, "t") == {"embedded": 1}


# Detached and attached again ----------------------------------------------------------------------


@pytest.fixture
def detached(two):
    """A table ``r``, attached, with two rows: to be detached, changed and attached again."""
    two.execute("CREATE TABLE r (id int PRIMARY KEY, before_it text, image_path text)")
    two.execute("SELECT visrec.attach('r', model => 'pixels')")
    two.execute("INSERT INTO r VALUES (1, NULL, '7.jpg'), (2, NULL, '7.jpg')")
    return two


def change(db, table="r"):
    db.execute(f"SELECT visrec.detach('{table}')")
    db.execute(f"UPDATE {table} SET image_path = '7.0.jpg' WHERE id = 1")


def attach_again(db, vector, table="r"):
    db.execute(f"SELECT visrec.attach('{table}', vector_column => '{vector}', model => 'pixels')")
    assert coverage(db, table) == {"embedded": 1, "pending": 1}
    db.execute(f"CALL visrec.backfill('{table}')")
    assert coverage(db, table) == {"embedded": 2}
    assert wrong(db, table, vector=vector) == []


def sources(db, table="r"):
    rows = db.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND atttypid ="
        " 'bigint[]'::regtype AND NOT attisdropped ORDER BY attnum",
        (table,),
    )
    return [name for (name,) in rows]


@pytest.mark.parametrize("renamed", ["attached", "detached"])
def test_a_renamed_vector_column_keeps_its_sources(detached, renamed):
    if renamed == "attached":
        detached.execute("ALTER TABLE r RENAME content_vector TO look")
    change(detached)
    if renamed == "detached":
        detached.execute("ALTER TABLE r RENAME content_vector TO look")
    attach_again(detached, "look")
    assert len(sources(detached)) == 1


def test_a_renamed_source_column_is_found_again(detached):
    detached.execute("ALTER TABLE r RENAME content_vector_source TO made_of")
    change(detached)
    attach_again(detached, "content_vector")
    assert sources(detached) == ["made_of"]


def test_a_long_vector_column_keeps_its_sources(two):
    two.execute("CREATE TABLE r (id int PRIMARY KEY, image_path text)")
    two.execute(f"SELECT visrec.attach('r', vector_column => '{LONG}', model => 'pixels')")
    two.execute("INSERT INTO r VALUES (1, '7.jpg'), (2, '7.jpg')")
    change(two)
    attach_again(two, LONG)
    assert len(sources(two)) == 1


def test_the_name_of_a_renamed_vector_column_can_be_used_again(detached):
    """A new column of that name does not take the renamed one's sources over."""
    detached.execute("SELECT visrec.detach('r')")
    detached.execute("ALTER TABLE r RENAME content_vector TO look")
    detached.execute("SELECT visrec.attach('r', model => 'pixels')")
    detached.execute("CALL visrec.backfill('r')")
    assert wrong(detached, "r") == []
    change(detached)
    attach_again(detached, "look")
    assert len(sources(detached)) == 2


def test_a_detached_table_that_was_dumped_keeps_its_sources(detached, restore):
    """Numbers of columns change in a dump, where one was dropped."""
    detached.execute("ALTER TABLE r RENAME content_vector TO look")
    change(detached)
    detached.execute("ALTER TABLE r DROP before_it")
    restored = restore()
    attach_again(restored, "look")
    assert len(sources(restored)) == 1


def test_sources_that_cannot_be_told_are_not_guessed(detached, restore):
    """Detached, renamed, dumped without a column before it: nothing leads to the vectors."""
    change(detached)
    detached.execute("ALTER TABLE r RENAME content_vector TO look")
    detached.execute("ALTER TABLE r DROP before_it")
    restored = restore()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        restored.execute("SELECT visrec.attach('r', vector_column => 'look', model => 'pixels')")
    assert caught.value.diag.message_hint == (
        "If it is theirs: ALTER TABLE public.r RENAME content_vector_source TO look_source; and"
        " attach. If not, drop it."
    )
    restored.execute("ALTER TABLE r RENAME content_vector_source TO look_source")
    attach_again(restored, "look")


def test_vectors_of_unknown_pictures_are_told_of(two):
    two.execute("CREATE TABLE r (id int PRIMARY KEY, image_path text, v vector(512))")
    two.execute("INSERT INTO r SELECT 1, '7.jpg', visrec.embed_image('7.jpg', 'pixels')")
    heard = notices(two)
    two.execute("SET client_min_messages = notice")
    two.execute("SELECT visrec.attach('r', vector_column => 'v', model => 'pixels')")
    assert [text for _, text, _ in heard] == [
        'column "v" of table "public.r" has vectors that visrec did not make'
    ]
    assert coverage(two, "r") == {"embedded": 1}


def test_a_users_own_array_is_not_taken_for_sources(two):
    two.execute(
        "CREATE TABLE r (id int PRIMARY KEY, image_path text, content_vector_source bigint[])"
    )
    two.execute("INSERT INTO r VALUES (1, '7.jpg', '{4,5,6}')")
    with pytest.raises(psycopg.errors.DuplicateColumn) as caught:
        two.execute("SELECT visrec.attach('r', model => 'pixels')")
    assert caught.value.diag.message_primary == (
        'column "content_vector_source" of table "public.r" exists, and visrec did not make it'
    )
    two.execute("SELECT visrec.attach('r', vector_column => 'v', model => 'pixels')")
    assert two.execute("SELECT content_vector_source FROM r").fetchone() == ([4, 5, 6],)


# What an image is generated from ------------------------------------------------------------------

GENERATED = {
    "numeric": ("numeric", "n::text", "7", "7.0"),
    "numbers": ("numeric[]", "n[1]::text", "'{7}'", "'{7.0}'"),
    "jsonb": ("jsonb", "(n ->> 'x')", """'{"x": 7}'""", """'{"x": 7.0}'"""),
    "json": ("json", "(n ->> 'x')", """'{"x": "7"}'""", """'{"x": "7.0"}'"""),
}


@pytest.fixture
def generated(two):
    """Makes an attached table ``t`` whose image column is generated from ``n``."""

    def work(type_, expression):
        two.execute(
            f"CREATE TABLE t (id int PRIMARY KEY, n {type_}, other int,"
            f" image_path text GENERATED ALWAYS AS ({expression} || '.jpg') STORED)"
        )
        two.execute("SELECT visrec.attach('t', model => 'pixels')")
        return two

    return work


@pytest.mark.parametrize(
    ("type_", "expression", "first", "then"), GENERATED.values(), ids=GENERATED
)
def test_an_equal_value_that_reads_differently_is_another_picture(
    generated, type_, expression, first, then
):
    db = generated(type_, expression)
    db.execute(f"INSERT INTO t (id, n) VALUES (1, {first})")
    db.execute(f"UPDATE t SET n = {then}")
    assert db.execute("SELECT image_path FROM t").fetchone() == ("7.0.jpg",)
    assert wrong(db, "t") == []
    assert coverage(db, "t") == {"embedded": 1}
    stamp = "SELECT xmin::text, ctid::text FROM t"
    db.execute("UPDATE t SET n = n")
    [(xmin, ctid)] = db.execute(stamp)
    db.execute("UPDATE t SET other = 1")
    assert db.execute(stamp).fetchone() != (xmin, ctid)
    assert coverage(db, "t") == {"embedded": 1}
    db.execute("UPDATE t SET n = NULL")
    assert coverage(db, "t") == {"no_image": 1}
    db.execute(f"UPDATE t SET n = {first}")
    assert wrong(db, "t") == []
    assert coverage(db, "t") == {"embedded": 1}


def test_an_image_column_that_is_no_longer_generated(generated):
    db = generated("numeric", "n::text")
    db.execute("INSERT INTO t (id, n) VALUES (1, 7)")
    db.execute("ALTER TABLE t DISABLE TRIGGER visrec_1_delete")
    db.execute("ALTER TABLE t ALTER COLUMN image_path DROP EXPRESSION")
    assert db.execute("SELECT tgname::text FROM pg_trigger WHERE tgenabled = 'D'").fetchall() == [
        ("visrec_1_delete",)
    ]
    db.execute("UPDATE t SET image_path = '7.0.jpg'")
    assert wrong(db, "t") == []
    assert coverage(db, "t") == {"embedded": 1}
    assert db.execute("SELECT problem FROM visrec.attached").fetchone() == (None,)


def test_triggers_that_watch_former_sources_are_a_problem(generated):
    """Where event triggers were off, ``problem`` says so, and attach mends it."""
    db = generated("numeric", "n::text")
    db.execute("INSERT INTO t (id, n) VALUES (1, 7)")
    db.execute("ALTER EVENT TRIGGER visrec_follow_table DISABLE")
    db.execute("ALTER TABLE t ALTER COLUMN image_path DROP EXPRESSION")
    db.execute("ALTER EVENT TRIGGER visrec_follow_table ENABLE")
    assert db.execute("SELECT problem FROM visrec.attached").fetchone() == (
        "its triggers watch other columns than its images are made of",
    )
    db.execute("SELECT visrec.attach('t')")
    db.execute("UPDATE t SET image_path = '7.0.jpg'")
    assert wrong(db, "t") == []
    assert db.execute("SELECT problem FROM visrec.attached").fetchone() == (None,)


# bytea that changes while it is embedded ----------------------------------------------------------


def test_two_rows_with_one_key_until_the_commit(db):
    """Bytes of the same length and ends."""
    db.execute("CREATE TABLE d (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, img bytea)")
    db.execute("SELECT visrec.attach('d', image_column => 'img', model => 'pixels')")
    with db.transaction():
        db.execute("INSERT INTO d VALUES (1, %s), (1, %s)", (middle("0000ff"), middle("00ff00")))
        db.execute("UPDATE d SET id = 2 WHERE img = %s", (middle("00ff00"),))
    assert wrong(db, "d", image="img") == []
    assert coverage(db, "d") == {"embedded": 2}
    assert db.execute("SELECT visrec.recheck('d')").fetchone() == (0,)


def p3(middle_):
    return (
        "P3\n60 60\n255\n" + "255 000 000 " * 1799 + middle_ + " 000 255 " + "000 255 000 " * 1800
    ).encode()


@pytest.mark.parametrize("other", ["xyz", "128"])
def test_a_trigger_changes_bytes_that_are_being_embedded(db, other):
    """The vector of what was read is not given to what is there by now."""
    db.execute("CREATE TABLE e (id int PRIMARY KEY, img bytea)")
    db.execute("SELECT visrec.attach('e', image_column => 'img', model => 'pixels')")
    db.execute("CREATE TABLE spare (img bytea)")
    db.execute("INSERT INTO spare VALUES (%s)", (p3(other),))
    db.execute(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.id = 1 AND NEW.content_vector IS NOT NULL THEN"
        " UPDATE e SET img = spare.img FROM spare WHERE id = 2; END IF; RETURN NULL; END $$"
    )
    db.execute("CREATE TRIGGER spoil AFTER UPDATE ON e FOR EACH ROW EXECUTE FUNCTION spoil()")
    db.execute("INSERT INTO e SELECT n, %s FROM generate_series(1, 16) AS n", (p3("000"),))
    db.execute("DROP TRIGGER spoil ON e")
    failed = other == "xyz"
    assert db.execute(
        "SELECT e.img = spare.img, content_vector IS NULL FROM e, spare WHERE id = 2"
    ).fetchone() == (True, failed)
    assert coverage(db, "e") == ({"embedded": 15, "failed": 1} if failed else {"embedded": 16})
    db.execute("DELETE FROM e WHERE content_vector IS NULL")
    assert wrong(db, "e", image="img") == []
    assert db.execute("SELECT visrec.recheck('e')").fetchone() == (0,)


# A partition and its parent -----------------------------------------------------------------------


@pytest.fixture
def parted(two):
    two.execute(
        "CREATE TABLE q (id int PRIMARY KEY, front text, back text) PARTITION BY RANGE (id)"
    )
    two.execute("CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10)")
    return two


@pytest.mark.parametrize(("first", "second"), [("q", "q1"), ("q1", "q")])
def test_a_partition_is_not_attached_beside_its_parent(parted, first, second):
    if first == "q1":  # on its own, a partition needs columns from its parent
        parted.execute("ALTER TABLE q ADD content_vector vector(512)")
        parted.execute("ALTER TABLE q ADD content_vector_source bigint[]")
    parted.execute(f"SELECT visrec.attach('{first}', image_column => 'front', model => 'pixels')")
    with pytest.raises(psycopg.errors.DuplicateObject) as caught:
        parted.execute(
            f"SELECT visrec.attach('{second}', image_column => 'back', model => 'pixels')"
        )
    assert caught.value.diag.message_primary == (
        f'column "content_vector" already holds the vectors of attachment "{first}" of table'
        f' "public.{first}"'
    )
    assert caught.value.diag.message_hint == (
        f"SELECT visrec.detach('public.{first}', name => '{first}');"
    )


def test_an_attached_table_becomes_a_partition(two):
    two.execute(
        "CREATE TABLE q (id int PRIMARY KEY, front text, back text) PARTITION BY RANGE (id)"
    )
    two.execute("CREATE TABLE q1 (id int PRIMARY KEY, front text, back text)")
    for table, image in (("q", "front"), ("q1", "back")):
        two.execute(
            f"SELECT visrec.attach('{table}', image_column => '{image}', model => 'pixels')"
        )
    two.execute("INSERT INTO q1 VALUES (1, '7.jpg', '7.0.jpg')")
    heard = notices(two)
    two.execute("ALTER TABLE q ATTACH PARTITION q1 FOR VALUES FROM (0) TO (10)")
    assert warnings(heard) == [
        'could not bring the attachment of table "public.q1" up to date: column "content_vector"'
        ' already holds the vectors of attachment "q" of table "public.q"'
    ]
    assert heard[-1][2] == "SELECT visrec.detach('public.q1');"
    assert two.execute(
        "SELECT relation::text, problem FROM visrec.attached ORDER BY 1"
    ).fetchall() == [
        ("q", None),
        ("q1", 'it is a partition of table "public.q", which is attached with the same vectors'),
    ]
    assert coverage(two, "q") == {"stale": 1}
    two.execute("CALL visrec.backfill('q')")
    two.execute("INSERT INTO q VALUES (2, '7.jpg', '7.0.jpg')")
    assert wrong(two, "q", image="front") == []
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="q1") as caught:
        two.execute("CALL visrec.backfill('q1')")
    assert caught.value.diag.message_hint == "SELECT visrec.detach('public.q1');"
    two.execute("UPDATE q1 SET back = '7.jpg'")
    assert coverage(two, "q") == {"embedded": 2}
    assert warnings(heard)[1:] == ['rows of table "public.q1" are kept without a vector']
    two.execute("SELECT visrec.detach('q1')")
    two.execute("UPDATE q1 SET back = '7.jpg'")
    two.execute("UPDATE q1 SET front = '7.0.jpg' WHERE id = 1")
    two.execute("CALL visrec.backfill('q')")
    assert coverage(two, "q") == {"embedded": 2}
    assert wrong(two, "q", image="front") == []
    assert two.execute("SELECT problem FROM visrec.attached").fetchall() == [(None,)]


def test_a_partition_that_is_detached_is_attached_as_it_was(two):
    two.execute("CREATE TABLE q (id int PRIMARY KEY, image_path text) PARTITION BY RANGE (id)")
    two.execute("SELECT visrec.attach('q', model => 'pixels')")
    two.execute("CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10)")
    two.execute("ALTER TABLE q RENAME content_vector TO look")
    two.execute("INSERT INTO q VALUES (1, '7.jpg'), (2, '7.jpg')")
    two.execute("ALTER TABLE q DETACH PARTITION q1")
    two.execute("UPDATE q1 SET image_path = '7.0.jpg' WHERE id = 1")
    attach_again(two, "look", table="q1")


# Moved and copied vectors -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_a_vector_column_that_is_left_and_taken_again(two, kind):
    first, then = ("7.jpg", "7.0.jpg") if kind == "path" else (middle("0000ff"), middle("00ff00"))
    two.execute(f"CREATE TABLE m (id int PRIMARY KEY, img {'text' if kind == 'path' else 'bytea'})")
    two.execute("SELECT visrec.attach('m', image_column => 'img', model => 'pixels')")
    two.execute("INSERT INTO m VALUES (1, %s), (2, %s)", (first, first))
    two.execute("SELECT visrec.attach('m', vector_column => 'v2')")
    two.execute("UPDATE m SET img = %s WHERE id = 1", (then,))
    heard = notices(two)
    two.execute("SET client_min_messages = notice")
    two.execute("SELECT visrec.attach('m', vector_column => 'content_vector')")
    assert '1 row of table "public.m" had the vector of another image' in [m for _, m, _ in heard]
    assert wrong(two, "m", image="img") == []
    assert coverage(two, "m") == {"embedded": 1, "pending": 1}


@pytest.fixture
def clones(two):
    two.execute("CREATE TABLE cl (id int PRIMARY KEY, image_path text)")
    two.execute("SELECT visrec.attach('cl', model => 'pixels')")
    two.execute("INSERT INTO cl VALUES (1, '7.jpg')")
    return two


def copy_of_row(db, table="cl", **new):
    db.execute(
        f"INSERT INTO {table} SELECT (jsonb_populate_record(c, %s)).* FROM {table} AS c"
        " WHERE id = 1",
        (psycopg.types.json.Jsonb(new),),
    )


def test_a_copied_row_with_another_picture(clones):
    copy_of_row(clones, id=2, image_path="7.0.jpg")
    copy_of_row(clones, id=3, image_path="nowhere.jpg")
    copy_of_row(clones, id=4, image_path=None)
    copy_of_row(clones, id=5, image_path="")
    assert wrong(clones, "cl") == []
    assert coverage(clones, "cl") == {"embedded": 2, "failed": 1, "no_image": 2}
    assert clones.execute("SELECT id FROM similar_cl(1)").fetchall() == [(2,)]


def test_a_copied_row_with_other_bytes(db):
    db.execute("CREATE TABLE cl (id int PRIMARY KEY, img bytea)")
    db.execute("SELECT visrec.attach('cl', image_column => 'img', model => 'pixels')")
    db.execute("INSERT INTO cl VALUES (1, %s)", (middle("0000ff"),))
    copy_of_row(db, id=2, img="\\x" + middle("00ff00").hex())
    assert wrong(db, "cl", image="img") == []
    assert coverage(db, "cl") == {"embedded": 2}


def test_a_copied_row_is_never_left_with_the_copy(clones):
    """Also where the encoder cannot work."""
    clones.execute("SELECT visrec.set('encoder', 'in_process')")
    clones.execute("UPDATE visrec.model SET fingerprint = 'others' WHERE name = 'pixels'")
    copy_of_row(clones, id=2, image_path="7.0.jpg")
    assert clones.execute("SELECT id FROM cl WHERE content_vector IS NULL").fetchall() == [(2,)]


def test_rows_that_come_with_their_own_vectors_are_not_embedded_again(clones, images):
    """As in a restore: the file is gone, and the vector stays."""
    copy_of_row(clones, id=2)
    (images / "7.jpg").unlink()
    copy_of_row(clones, id=3)
    assert coverage(clones, "cl") == {"embedded": 3}


def test_a_copied_vector_that_the_owner_cannot_remove_fails_the_insert(clones):
    clones.execute("DROP ROLE IF EXISTS visrec_owner")
    clones.execute("CREATE ROLE visrec_owner")
    try:
        clones.execute("SELECT visrec.grant_access('visrec_owner')")
        clones.execute("GRANT ALL ON SCHEMA public TO visrec_owner")
        clones.execute("ALTER TABLE cl OWNER TO visrec_owner")
        clones.execute("SELECT visrec.attach('cl')")
        clones.execute("ALTER TABLE cl ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        clones.execute("CREATE POLICY a ON cl FOR INSERT WITH CHECK (true)")
        clones.execute("CREATE POLICY b ON cl FOR SELECT USING (true)")
        with pytest.raises(psycopg.errors.TriggeredDataChangeViolation) as caught:
            copy_of_row(clones, id=2, image_path="7.0.jpg")
        assert caught.value.diag.message_primary == (
            'could not remove the vector of another image from 1 row of table "public.cl"'
        )
    finally:
        clones.execute("DROP OWNED BY visrec_owner CASCADE")
        clones.execute("DROP ROLE visrec_owner")


@pytest.mark.parametrize("made", ["before", "after"])
def test_a_trigger_changes_the_picture_of_a_row_that_moves_to_another_partition(db, made):
    db.execute("CREATE TABLE cl (id int PRIMARY KEY, img bytea) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE one PARTITION OF cl FOR VALUES FROM (0) TO (100)")
    db.execute("CREATE TABLE two PARTITION OF cl FOR VALUES FROM (100) TO (200)")
    other = middle("00ff00").hex()
    trigger = (
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.img := '\\x{other}'; RETURN NEW; END $$;"
        " CREATE TRIGGER other BEFORE INSERT ON two FOR EACH ROW EXECUTE FUNCTION other()"
    )
    attach = "SELECT visrec.attach('cl', image_column => 'img', model => 'pixels')"
    for statement in (trigger, attach) if made == "before" else (attach, trigger):
        db.execute(statement)
    db.execute("INSERT INTO cl VALUES (1, %s), (2, %s)", (middle("0000ff"), middle("ff0000")))
    db.execute("UPDATE cl SET id = id + 100 WHERE id = 1")
    assert wrong(db, "cl", image="img") == []
    assert coverage(db, "cl") == {"embedded": 2}
    copy_of_row(db, id=103)
