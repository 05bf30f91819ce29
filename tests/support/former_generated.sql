-- What the first edition generated from the contract orders, after its migrations 0001 to 0019.
CREATE TABLE IF NOT EXISTS apex.scored_orders ("run_id" bigint NOT NULL, "row_nr" bigint NOT NULL, "cliente_id" text NOT NULL, "fecha_pedido_dt" date NOT NULL, "predicted" text NOT NULL, "p_digital" real, "p_telefono" real, "p_vendedor" real, "confidence" real NOT NULL, "model_version" integer NOT NULL, "scored_at" timestamptz NOT NULL, PRIMARY KEY (run_id, row_nr)) PARTITION BY RANGE (run_id);
ALTER TABLE apex.scored_orders ADD COLUMN IF NOT EXISTS "p_digital" real;
ALTER TABLE apex.scored_orders ADD COLUMN IF NOT EXISTS "p_telefono" real;
ALTER TABLE apex.scored_orders ADD COLUMN IF NOT EXISTS "p_vendedor" real;
CREATE INDEX IF NOT EXISTS scored_orders_entity ON apex.scored_orders ("cliente_id", "fecha_pedido_dt");
COMMENT ON TABLE apex.scored_orders IS 'One row for each order of a scoring run. row_nr is its position in the drop, from 0.';
CREATE OR REPLACE VIEW apex.scored_orders_current AS 
            SELECT r.drop_id, r.mlflow_run_id, s.* FROM apex.scored_orders AS s JOIN apex.scoring_runs AS r USING (run_id)
            WHERE s.run_id IN (SELECT run_id FROM apex.drop_summary WHERE superseded_by IS NULL);
COMMENT ON VIEW apex.scored_orders_current IS 'One row for each order of every drop that is not superseded, from the latest run.';
CREATE OR REPLACE VIEW apex.channel_mix_daily AS 
            SELECT "fecha_pedido_dt" AS day, predicted, count(*) AS orders,
                   count(*)::double precision / sum(count(*)) OVER (PARTITION BY "fecha_pedido_dt") AS share
            FROM apex.scored_orders_current GROUP BY 1, 2;
COMMENT ON VIEW apex.channel_mix_daily IS 'One row for each order day and predicted channel, with its share of that day.';
CREATE OR REPLACE VIEW apex.confidence_daily AS 
            SELECT "fecha_pedido_dt" AS day, model_version, count(*) AS orders, avg(confidence) AS mean_confidence,
                   percentile_cont(0.5) WITHIN GROUP (ORDER BY confidence) AS median_confidence
            FROM apex.scored_orders_current GROUP BY 1, 2;
COMMENT ON VIEW apex.confidence_daily IS 'One row for each order day and model version, with the confidence of its predictions.';
CREATE OR REPLACE VIEW apex.lineage AS 
            SELECT s.run_id, s.row_nr, s."cliente_id", s."fecha_pedido_dt", s.predicted, s.confidence, s.scored_at,
                   d.name AS drop_name, d.sha256 AS drop_sha256, r.feature_snapshot, r.model_name, r.model_version,
                   r.mlflow_run_id, v.data_sha256, v.contract_sha256, v.git_commit, v.step_run AS training_run
            FROM apex.scored_orders AS s JOIN apex.scoring_runs AS r USING (run_id) JOIN apex.drops AS d USING (drop_id)
            LEFT JOIN apex.model_versions AS v
                ON v.model_name = r.model_name AND v.model_version = r.model_version;
COMMENT ON VIEW apex.lineage IS 'One row for each scored order: drop, model version, training data and code.';
CREATE OR REPLACE VIEW apex.drop_outcomes AS 
            SELECT d.drop_id, d.name, d.run_id, d.model_version, s.predicted, o.observed, count(*) AS orders,
                   avg(s.confidence) AS mean_confidence
            FROM apex.outcomes AS o JOIN apex.scored_orders AS s USING (run_id, row_nr)
            JOIN apex.drop_summary AS d USING (run_id)
            GROUP BY 1, 2, 3, 4, 5, 6;
COMMENT ON VIEW apex.drop_outcomes IS 'One row for each drop, predicted class and observed class: orders of the latest run with a known outcome.';
CREATE OR REPLACE VIEW apex.outcome_coverage AS 
            SELECT s."fecha_pedido_dt" AS day, count(*) AS scored, count(o.observed) AS with_outcome,
                   count(o.observed)::double precision / count(*) AS share
            FROM apex.scored_orders_current AS s LEFT JOIN apex.outcomes AS o USING (run_id, row_nr) GROUP BY 1;
COMMENT ON VIEW apex.outcome_coverage IS 'One row for each order day: scored orders, and how many of them have a known outcome.';
CREATE TABLE IF NOT EXISTS apex.shadow_scores (run_id bigint NOT NULL, model_version integer NOT NULL, row_nr bigint NOT NULL, predicted text NOT NULL, "p_digital" real, "p_telefono" real, "p_vendedor" real, PRIMARY KEY (run_id, model_version, row_nr));
ALTER TABLE apex.shadow_scores ADD COLUMN IF NOT EXISTS "p_digital" real;
ALTER TABLE apex.shadow_scores ADD COLUMN IF NOT EXISTS "p_telefono" real;
ALTER TABLE apex.shadow_scores ADD COLUMN IF NOT EXISTS "p_vendedor" real;
COMMENT ON TABLE apex.shadow_scores IS 'One row for each order and shadow challenger. The keys are those of scored_orders.';
CREATE OR REPLACE VIEW apex.shadow_comparison AS 
            SELECT h.run_id, d.name AS drop_name, r.model_version AS champion_version,
                   h.model_version AS challenger_version, h.state, h.reason, h.rows_scored AS orders,
                   avg((s.predicted = c.predicted)::integer)::double precision AS same_prediction,
                   count(o.observed) AS outcomes, avg(-ln(CASE o.observed WHEN 'DIGITAL' THEN CASE WHEN s."p_digital" < 1e-15 THEN 1e-15 ELSE s."p_digital"::double precision END WHEN 'TELEFONO' THEN CASE WHEN s."p_telefono" < 1e-15 THEN 1e-15 ELSE s."p_telefono"::double precision END WHEN 'VENDEDOR' THEN CASE WHEN s."p_vendedor" < 1e-15 THEN 1e-15 ELSE s."p_vendedor"::double precision END END)) AS challenger_log_loss,
                   avg(-ln(CASE o.observed WHEN 'DIGITAL' THEN CASE WHEN c."p_digital" < 1e-15 THEN 1e-15 ELSE c."p_digital"::double precision END WHEN 'TELEFONO' THEN CASE WHEN c."p_telefono" < 1e-15 THEN 1e-15 ELSE c."p_telefono"::double precision END WHEN 'VENDEDOR' THEN CASE WHEN c."p_vendedor" < 1e-15 THEN 1e-15 ELSE c."p_vendedor"::double precision END END)) AS champion_log_loss, h.finished_at
            FROM apex.shadow_runs AS h JOIN apex.scoring_runs AS r USING (run_id) JOIN apex.drops AS d USING (drop_id)
            LEFT JOIN apex.shadow_scores AS s ON s.run_id = h.run_id AND s.model_version = h.model_version
            LEFT JOIN apex.scored_orders AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr
            LEFT JOIN apex.outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr
            GROUP BY h.run_id, h.model_version, d.drop_id, r.run_id;
COMMENT ON VIEW apex.shadow_comparison IS 'One row for each scored drop and challenger: share of equal predictions, and both log losses where the outcome is known.';
CREATE TABLE IF NOT EXISTS apex.online_orders (answer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "request_id" text NOT NULL, "place" integer NOT NULL, "cliente_id" text NOT NULL, "pais_cd" text, "region_comercial_txt" text, "agencia_id" text, "ruta_id" text, "tipo_cliente_cd" text, "madurez_digital_cd" text, "estrellas_txt" text, "frecuencia_visitas_cd" text, "fecha_pedido_dt" date NOT NULL, "known_client" boolean NOT NULL, "predicted" text NOT NULL, "p_digital" real, "p_telefono" real, "p_vendedor" real, "confidence" real NOT NULL, "model_name" text NOT NULL, "model_version" integer NOT NULL, "answered_at" timestamptz NOT NULL);
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "pais_cd" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "region_comercial_txt" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "agencia_id" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "ruta_id" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "tipo_cliente_cd" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "madurez_digital_cd" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "estrellas_txt" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "frecuencia_visitas_cd" text;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "p_digital" real;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "p_telefono" real;
ALTER TABLE apex.online_orders ADD COLUMN IF NOT EXISTS "p_vendedor" real;
CREATE INDEX IF NOT EXISTS online_orders_answered ON apex.online_orders (answered_at);
COMMENT ON TABLE apex.online_orders IS 'One row for each sampled order that the online service scored.';
CREATE OR REPLACE VIEW apex.online_answers AS SELECT 'online' AS source, o.* FROM apex.online_orders AS o;
COMMENT ON VIEW apex.online_answers IS 'One row for each recorded answer of the online service: the order, its place in the request (from 0), the prediction and the model version. A sample, by the option serving.record_share.';
