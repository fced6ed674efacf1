-- Moves everything back into public, where an older binary looks for it.
DROP VIEW IF EXISTS public.coulomb_migrations;
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('ALTER TABLE coulomb.%I SET SCHEMA public', relname)
        FROM pg_class
        WHERE relnamespace = 'coulomb'::regnamespace AND relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT format('ALTER FUNCTION %s SET SCHEMA public', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = 'coulomb'::regnamespace
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;
DROP SCHEMA coulomb;
