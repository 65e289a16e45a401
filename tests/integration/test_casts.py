"""A cast is its type's owner's code: it runs for nobody who searches, recommends or evaluates."""

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
