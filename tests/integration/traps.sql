-- Operators and functions beside pgvector's that fit better than PostgreSQL's own, where those are polymorphic or a cast away.
CREATE EXTENSION vector SCHEMA public;
DO $$
DECLARE
    types CONSTANT text[] := ARRAY['oid', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'bool', 'text', 'name', '"char"',
        'jsonb', 'regclass', 'regtype', 'regnamespace', 'regrole', 'regproc', 'text[]', 'name[]', 'int2[]', 'int4[]', 'float4[]',
        'float8[]', 'oid[]', 'regtype[]', 'public.vector', 'public.vector[]'];
    body CONSTANT text := 'BEGIN RAISE ''trap''; END';
    a text;
    b text;
    f text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);      -- not to step into them
    FOREACH a IN ARRAY types LOOP
        FOREACH f IN ARRAY '{unnest,format,array_fill,cardinality,array_to_string,jsonb_build_object,to_jsonb,pg_get_userbyid,'
            'aclexplode,jsonb_array_elements_text,array_position,quote_ident,format_type,min,max,sum,count,avg,ln}'::text[] LOOP
            CONTINUE WHEN to_regprocedure(format('public.%I(%s)', f, a)) IS NOT NULL;
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS int LANGUAGE plpgsql AS %L', f, a, body);
        END LOOP;
        FOREACH b IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.trap(%s, %s) RETURNS bool LANGUAGE plpgsql AS %L', a, b, body);
            FOREACH f IN ARRAY '{=,<>,<,>,>=,||,->,->>,+,-,*,/,%,~,&}'::text[] LOOP
                CONTINUE WHEN EXISTS (SELECT FROM pg_operator WHERE oprname = f AND oprleft = a::regtype AND oprright = b::regtype);
                EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap)', f, a, b);
            END LOOP;
            FOREACH f IN ARRAY '{array_fill,format,array_to_string,generate_series,pg_has_role,array_position,set_config}'::text[] LOOP
                CONTINUE WHEN to_regprocedure(format('public.%I(%s, %s)', f, a, b)) IS NOT NULL;
                EXECUTE format('CREATE FUNCTION public.%I(%s, %s) RETURNS int LANGUAGE plpgsql AS %L', f, a, b, body);
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;
