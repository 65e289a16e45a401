"""Where PostgreSQL keeps what a write, or the planner, may run."""

LOOKED_AT = {
    ("pg_attrdef", "adbin"),
    ("pg_constraint", "conbin"),
    ("pg_index", "indexprs"),
    ("pg_index", "indpred"),
    ("pg_partitioned_table", "partexprs"),
    ("pg_policy", "polqual"),
    ("pg_policy", "polwithcheck"),
    ("pg_statistic_ext", "stxexprs"),
    ("pg_trigger", "tgqual"),
}
RUN_NOTHING = {
    ("pg_class", "relpartbound"),  # constants
    ("pg_proc", "proargdefaults"),  # functions are looked at themselves
    ("pg_proc", "prosqlbody"),
    ("pg_publication_rel", "prqual"),  # in another process
    ("pg_rewrite", "ev_qual"),  # no rule at all passes
    ("pg_rewrite", "ev_action"),
    ("pg_type", "typdefaultbin"),  # for new rows
}


def test_every_catalog_with_expressions_is_looked_at(db):
    """One that a later PostgreSQL has needs a decision."""
    places = db.execute(
        "SELECT c.relname, a.attname FROM pg_class AS c"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relkind = 'r' AND a.atttypid = 'pg_node_tree'::regtype"
    ).fetchall()
    assert set(places) - RUN_NOTHING == LOOKED_AT
    source = "SELECT prosrc FROM pg_proc WHERE proname = %s"
    for function, part in ("_other_code", 1), ("_strangers_code", 0):
        (text,) = db.execute(source, (function,)).fetchone()
        assert [place for place in LOOKED_AT if place[part] not in text] == [], function
