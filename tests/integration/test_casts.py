"""A cast is its type's owner's code: it runs for nobody who searches, recommends or evaluates."""

import psycopg
import pytest

from .test_strangers import alice, become, loot

__all__ = ["alice"]

CASTS = (
    "CREATE TYPE mood AS ENUM ('a', 'b')",
    "GRANT USAGE ON SCHEMA eve TO PUBLIC",
    "CREATE FUNCTION seen() RETURNS void LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO public.loot VALUES (current_user); END $$",
    "CREATE FUNCTION to_mood(text) RETURNS mood LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM eve.seen(); RETURN 'a'::eve.mood; END $$",
    "CREATE FUNCTION to_text(mood) RETURNS text LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM eve.seen(); RETURN 'a'; END $$",
    "CREATE CAST (text AS mood) WITH FUNCTION to_mood(text) AS ASSIGNMENT",
    "CREATE CAST (mood AS text) WITH FUNCTION to_text(mood) AS ASSIGNMENT",
)
FILTERS = ('{"m": "a"}', '{"m": {"in": ["a", "b"]}}', '{"m": {"ne": "b"}}', '{"m": {"gte": "a"}}')


@pytest.fixture
def moods(alice, paths):
    """alice.p has a column of a type of eve's; eve.p has a key of it."""
    become(alice, "eve", *CASTS)
    become(
        alice,
        "alice",
        "CREATE TABLE p (id int PRIMARY KEY, image_path text, m eve.mood)",
        "SELECT visrec.attach('p', model => 'pixels')",
        f"INSERT INTO p VALUES (1, '{paths[0]}', 'a'), (2, '{paths[1]}', 'a')",
        "CREATE TABLE likes (who eve.mood, item int, weight float8, at timestamptz)",
        "INSERT INTO likes VALUES ('a', 1, 1, now()), ('a', 2, 1, now()), ('b', 2, 1, now())",
        "SELECT visrec.attach_events('p', 'likes', 'who', 'item', 'weight', 'at')",
    )
    become(
        alice,
        "eve",
        "CREATE TABLE p (id mood PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('p', model => 'pixels')",
        f"INSERT INTO p VALUES ('a', '{paths[0]}'), ('b', '{paths[1]}')",
        "GRANT SELECT ON p TO PUBLIC",
    )
    become(alice, None)
    alice.execute("DELETE FROM loot")
    return alice


@pytest.mark.parametrize("role", ["alice", None])
def test_filters(moods, role):
    become(moods, role)
    for filter_ in FILTERS:
        found = moods.execute("SELECT id FROM alice.similar_p(1, 2, %s)", (filter_,)).fetchall()
        assert found == [(2,)]
    bad = 'SELECT id FROM alice.similar_p(1, 2, \'{"m": "c"}\')'
    with pytest.raises(Exception, match='column "m": invalid input value for enum'):
        moods.execute(bad)
    assert loot(moods) == set()


@pytest.mark.parametrize("role", ["alice", None])
def test_events_of_a_user(moods, role):
    become(moods, role)
    found = "SELECT id FROM alice.recommend_p_for('b'::eve.mood, 2)"
    assert moods.execute(found).fetchall() == [(1,)]
    moods.execute("SELECT * FROM visrec.evaluate_taste('alice.p')")
    assert loot(moods) == set()


@pytest.mark.parametrize("role", ["alice", None])
def test_keys(moods, role):
    """Of eve's table, for whoever may read it."""
    become(moods, role)
    liked = "ARRAY['a']::eve.mood[]"
    taste = f"SELECT visrec.taste('eve.p', {liked}) IS NOT NULL"
    assert moods.execute(taste).fetchone() == (True,)
    moods.execute("SELECT * FROM visrec.recall('eve.p', 1, 2)")
    moods.execute("SELECT * FROM visrec.evaluate('eve.p', 'id')")
    assert loot(moods) == set()


@pytest.mark.parametrize("monitor", [False, True])
def test_a_domain_of_a_key_is_not_cast_to(alice, paths, monitor):
    """Its CHECK is its owner's code, and a reader's value never has to pass it."""
    become(
        alice,
        "eve",
        "GRANT USAGE ON SCHEMA eve TO PUBLIC",
        "CREATE FUNCTION f(bigint) RETURNS boolean LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN true; END $$",
        "CREATE DOMAIN d AS bigint CHECK (f(VALUE))",
        "CREATE TABLE p (id d PRIMARY KEY, image_path text)",
        "SELECT visrec.attach('p', model => 'pixels')",
        f"INSERT INTO p VALUES (1, '{paths[0]}'), (2, '{paths[1]}'), (3, '{paths[2]}')",
        "GRANT SELECT ON p TO PUBLIC",
        "CREATE TABLE likes (who d, item d, weight float8, at timestamptz)",
        "INSERT INTO likes SELECT 1, i, 1, now() FROM generate_series(1, 2) AS i",
        "GRANT SELECT ON likes TO PUBLIC",
        "SELECT visrec.attach_events('p', 'likes', 'who', 'item', 'weight', 'at')",
    )
    become(alice, None)
    alice.execute("DELETE FROM loot")
    if monitor:
        alice.execute("SELECT visrec.grant_access('visrec_alice', 'monitor')")
    become(alice, "alice")
    for question in (
        "SELECT count(*) = 1 FROM visrec.recall('eve.p', 1, 2)",
        "SELECT visrec.taste('eve.p', ARRAY[1::bigint]) IS NOT NULL",
        "SELECT count(*) = 1 FROM eve.similar_p(1, 1)",
        "SELECT count(*) = 1 FROM eve.recommend_p_for(1::bigint, 1)",
        "SELECT count(*) > 0 FROM visrec.evaluate_taste('eve.p')",
    ):
        assert alice.execute(question).fetchone() == (True,)
        assert loot(alice) == set(), question
        become(alice, "alice")


def test_the_history_of_a_user_means_the_same_whatever_the_settings(db, paths):
    db.execute("CREATE TABLE tz (id timestamptz PRIMARY KEY, image_path text)")
    db.execute("SELECT visrec.attach('tz', model => 'pixels')")
    db.execute(
        "INSERT INTO tz SELECT timestamptz '2020-01-01 00:00+00' + n * interval '30 minutes', p"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u (p, n)",
        (paths[:20],),
    )
    db.execute("CREATE TABLE ev (who int, item timestamptz, weight float8, at timestamptz)")
    db.execute("INSERT INTO ev VALUES (1, '2020-01-01 05:00+00', 1, now())")
    db.execute("SELECT visrec.attach_events('tz', 'ev', 'who', 'item', 'weight', 'at')")
    asked = "SELECT id AT TIME ZONE 'UTC' FROM recommend_tz_for(1, 3)"
    wanted = db.execute(asked).fetchall()
    assert len(wanted) == 3
    db.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'")
    assert db.execute(asked).fetchall() == wanted


def test_ranges_of_ones_own_are_no_keys(db):
    """What is read as one may be of a domain."""
    db.execute("CREATE DOMAIN d AS bigint; CREATE TYPE r AS RANGE (SUBTYPE = d)")
    db.execute("CREATE TABLE p (id r PRIMARY KEY, image_path text)")
    with pytest.raises(
        psycopg.errors.FeatureNotSupported, match=r"its primary key is of type public\.r"
    ):
        db.execute("SELECT visrec.attach('p', model => 'pixels')")
