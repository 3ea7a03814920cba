-- All revenue is in every mart that divides it.
SELECT by_month, by_share
FROM (
    SELECT
        (SELECT sum(revenue) FROM mart.revenue_by_month) AS by_month,
        (SELECT sum(revenue) FROM mart.market_share)     AS by_share
) AS sums
WHERE by_month <> by_share
