// What Java programs do through the Arrow Flight SQL JDBC driver, checked against a running server.
//
//     java --add-opens=java.base/java.nio=ALL-UNNAMED -cp flight-sql-jdbc-driver.jar Jdbc.java grpc://127.0.0.1:8815
//
// Prints one line per check and exits 1 if one fails. The checks use a schema of their own, which they drop again.

import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLFeatureNotSupportedException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;

public class Jdbc {
    static final String SCHEMA = "jdbc_check";

    interface Check {
        void run(Connection connection) throws Exception;
    }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();
    static String url;

    static Connection connect(Properties properties) throws SQLException {
        return DriverManager.getConnection(url, properties);
    }

    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.put("user", "ada");
        properties.put("password", "secret");
        return connect(properties);
    }

    /** Closes a connection that was given a catalog: the driver closes its channel, and then the session over it again. */
    static void close(Connection connection) throws SQLException {
        try {
            connection.close();
        } catch (SQLException e) {
            that(String.valueOf(e.getMessage()).contains("Channel shutdown"), String.valueOf(e));
        }
    }

    static void same(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    static void that(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    static void run(Connection connection, String... statements) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String sql : statements) {
                statement.execute(sql);
            }
        }
    }

    static List<List<Object>> rows(ResultSet result) throws SQLException {
        List<List<Object>> rows = new ArrayList<>();
        int columns = result.getMetaData().getColumnCount();
        while (result.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= columns; i++) {
                row.add(result.getObject(i));
            }
            rows.add(row);
        }
        result.close();
        return rows;
    }

    static List<List<Object>> query(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return rows(statement.executeQuery(sql));
        }
    }

    static List<String> column(ResultSet result, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        while (result.next()) {
            values.add(result.getString(name));
        }
        result.close();
        return values;
    }

    static SQLException fails(Check action, Connection connection) throws Exception {
        try {
            action.run(connection);
        } catch (SQLException e) {
            return e;
        }
        throw new AssertionError("no error");
    }

    // Statements.

    static void f4_ddl_and_dml_run_exactly_once(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            same(false, statement.execute("CREATE TABLE " + SCHEMA + ".once (id BIGINT, name VARCHAR)"));
            same(2, statement.executeUpdate("INSERT INTO " + SCHEMA + ".once VALUES (1, 'a'), (2, NULL)"));
            same(2L, (long) statement.executeLargeUpdate("INSERT INTO " + SCHEMA + ".once VALUES (3, 'c'), (4, 'd')"));
            same(false, statement.execute("DELETE FROM " + SCHEMA + ".once WHERE id = 4"));
            same(1, statement.getUpdateCount());
        }
        same("[[1, a], [2, null], [3, c]]", query(connection, "SELECT * FROM " + SCHEMA + ".once ORDER BY id").toString());
    }

    static void an_error_has_its_message_and_leaves_the_connection_usable(Connection connection) throws Exception {
        SQLException missing = fails(c -> query(c, "SELECT * FROM " + SCHEMA + ".onze"), connection);
        that(missing.getMessage().contains("onze"), missing.getMessage());
        SQLException syntax = fails(c -> query(c, "SELEC 1"), connection);
        that(syntax.getMessage().contains("SELEC"), syntax.getMessage());
        same("[[1]]", query(connection, "SELECT 1").toString());
    }

    static void f5_f6_f7_types_of_columns(Connection connection) throws Exception {
        String sql = "SELECT TRUE AS boolean_, CAST(1 AS TINYINT) AS tinyint_, CAST(2 AS SMALLINT) AS smallint_, "
                + "CAST(3 AS INTEGER) AS integer_, CAST(4 AS BIGINT) AS bigint_, CAST(1.5 AS REAL) AS real_, "
                + "CAST(2.5 AS DOUBLE) AS double_, CAST(3.25 AS DECIMAL(10, 2)) AS decimal_, 'text' AS varchar_, "
                + "X'0102' AS binary_, DATE '2013-01-31' AS date_, TIME '05:15:00' AS time_, "
                + "TIMESTAMP '2013-01-31 05:15:00.123456' AS timestamp_, NULL AS null_";
        int[] types = {Types.BOOLEAN, Types.TINYINT, Types.SMALLINT, Types.INTEGER, Types.BIGINT, Types.FLOAT, Types.DOUBLE,
            Types.DECIMAL, Types.VARCHAR, Types.VARBINARY, Types.DATE, Types.TIME, Types.TIMESTAMP, Types.NULL};
        try (Statement statement = connection.createStatement(); ResultSet result = statement.executeQuery(sql)) {
            ResultSetMetaData meta = result.getMetaData();
            same(types.length, meta.getColumnCount());
            List<String> wrong = new ArrayList<>();
            for (int i = 1; i <= types.length; i++) {
                if (meta.getColumnType(i) != types[i - 1]) {
                    wrong.add(meta.getColumnName(i) + " is " + meta.getColumnTypeName(i) + " " + meta.getColumnType(i));
                }
            }
            that(wrong.isEmpty(), wrong.toString());
            same(10, meta.getPrecision(8));
            same(2, meta.getScale(8));
            that(result.next(), "no row");
            same(true, result.getBoolean("boolean_"));
            same((byte) 1, result.getByte(2));
            same((short) 2, result.getShort(3));
            same(3, result.getInt(4));
            same(4L, result.getLong(5));
            same(1.5f, result.getFloat(6));
            same(2.5, result.getDouble(7));
            same(new BigDecimal("3.25"), result.getBigDecimal(8));
            same("text", result.getString(9));
            that(Arrays.equals(new byte[] {1, 2}, result.getBytes(10)), "bytes");
            same(Date.valueOf("2013-01-31"), result.getDate(11));
            same("05:15:00", result.getString(12).substring(0, 8));
            same(Timestamp.valueOf("2013-01-31 05:15:00.123456").getTime(), result.getTimestamp(13).getTime());
            same("2013-01-31", result.getString(11));
            that(result.getObject(14) == null && result.wasNull(), "null");
            that(!result.next(), "one row");
        }
    }

    static void f7_timestamps_with_a_zone(Connection connection) throws Exception {
        String sql = "SELECT CAST(TIMESTAMP '2013-07-01 12:00:00' AS TIMESTAMP WITH TIME ZONE) AS t";
        try (Statement statement = connection.createStatement(); ResultSet result = statement.executeQuery(sql)) {
            same(Types.TIMESTAMP_WITH_TIMEZONE, result.getMetaData().getColumnType(1));
            that(result.next(), "no row");
            same(java.time.Instant.parse("2013-07-01T12:00:00Z"), result.getTimestamp(1).toInstant());
        }
    }

    static void nested_values(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement();
                ResultSet result = statement.executeQuery("SELECT [1, 2] AS l, {'a': 1, 'b': 'x'} AS s")) {
            same(Types.ARRAY, result.getMetaData().getColumnType(1));
            int struct = result.getMetaData().getColumnType(2);
            that(struct == Types.STRUCT || struct == Types.JAVA_OBJECT, "struct is " + struct);
            that(result.next(), "no row");
            same("[1, 2]", Arrays.toString((Object[]) result.getArray(1).getArray()));
            that(String.valueOf(result.getObject(2)).contains("x"), String.valueOf(result.getObject(2)));
        }
    }

    static void many_rows_stream(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement();
                ResultSet result = statement.executeQuery("SELECT value FROM generate_series(1, 300000)")) {
            long sum = 0;
            while (result.next()) {
                sum += result.getLong(1);
            }
            same(300000L * 300001 / 2, sum);
        }
    }

    static void max_rows_and_leaving_early(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(3);
            same(3, rows(statement.executeQuery("SELECT value FROM generate_series(1, 100)")).size());
            statement.setMaxRows(0);
            ResultSet left = statement.executeQuery("SELECT value FROM generate_series(1, 100000000)");
            that(left.next(), "a row");
            left.close();
            same("[[1]]", rows(statement.executeQuery("SELECT 1")).toString());
        }
    }

    static void a_statement_is_cancelled(Connection connection) throws Exception {
        AtomicReference<Exception> refused = new AtomicReference<>();
        try (Statement statement = connection.createStatement()) {
            ResultSet result = statement.executeQuery("SELECT value FROM generate_series(1, 1000000000)");
            that(result.next(), "a row");
            Thread canceller = new Thread(() -> {
                try {
                    statement.cancel();
                } catch (SQLException e) {
                    refused.set(e);
                }
            });
            canceller.start();
            long rows = 1;
            boolean ended = false;
            while (!ended) {
                try {
                    ended = !result.next();
                    rows++;
                } catch (SQLException e) {
                    ended = true;
                } catch (RuntimeException e) {
                    // The driver passes on what its stream throws, unwrapped, when the end comes between two batches.
                    that(String.valueOf(e.getMessage()).startsWith("CANCELLED"), "not the cancel: " + e);
                    ended = true;
                }
            }
            canceller.join();
            that(rows < 1000000000L, "it went on");
        }
        that(refused.get() == null, "cancel: " + refused.get());
        same("[[1]]", query(connection, "SELECT 1").toString());
    }

    // Prepared statements.

    static void prepared_queries_take_parameters(Connection connection) throws Exception {
        run(connection, "CREATE TABLE " + SCHEMA + ".p (id BIGINT, name VARCHAR, price DECIMAL(10, 2), day DATE, ok BOOLEAN, x DOUBLE)");
        try (PreparedStatement insert =
                connection.prepareStatement("INSERT INTO " + SCHEMA + ".p VALUES (?, ?, ?, ?, ?, ?)")) {
            ParameterMetaData parameters = insert.getParameterMetaData();
            same(6, parameters.getParameterCount());
            same(Types.BIGINT, parameters.getParameterType(1));
            for (int i = 1; i <= 3; i++) {
                insert.setLong(1, i);
                insert.setString(2, "it's " + i);
                insert.setBigDecimal(3, new BigDecimal("1.25").add(BigDecimal.valueOf(i)));
                insert.setDate(4, Date.valueOf("2013-01-0" + i));
                insert.setBoolean(5, i % 2 == 0);
                insert.setDouble(6, i / 2.0);
                same(1, insert.executeUpdate());
            }
        }
        try (PreparedStatement query =
                connection.prepareStatement("SELECT id, name, price FROM " + SCHEMA + ".p WHERE id >= ? AND name <> ? ORDER BY id")) {
            for (int from = 1; from <= 3; from++) {
                query.setLong(1, from);
                query.setString(2, "it's 3");
                same(Math.max(0, 3 - from), rows(query.executeQuery()).size());
            }
        }
        same("[[4.25, true]]", query(connection, "SELECT price, day = DATE '2013-01-03' FROM " + SCHEMA + ".p WHERE id = 3").toString());
    }

    static void nulls_are_bound(Connection connection) throws Exception {
        run(connection, "CREATE TABLE " + SCHEMA + ".n (id BIGINT, name VARCHAR)");
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + SCHEMA + ".n VALUES (?, ?)")) {
            insert.setNull(1, Types.BIGINT);
            insert.setNull(2, Types.VARCHAR);
            same(1, insert.executeUpdate());
        }
        same("[[null, null]]", query(connection, "SELECT * FROM " + SCHEMA + ".n").toString());
    }

    static void batches_run_each_row_once(Connection connection) throws Exception {
        run(connection, "CREATE TABLE " + SCHEMA + ".b (id BIGINT, name VARCHAR)");
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + SCHEMA + ".b VALUES (?, ?)")) {
            for (int i = 0; i < 5; i++) {
                insert.setInt(1, i);
                insert.setString(2, "n" + i);
                insert.addBatch();
            }
            insert.executeBatch();
        }
        same("[[5, 10]]", query(connection, "SELECT count(*), sum(id) FROM " + SCHEMA + ".b").toString());
    }

    static void a_prepared_statement_tells_its_columns(Connection connection) throws Exception {
        try (PreparedStatement query = connection.prepareStatement("SELECT 1 AS one, 'x' AS text")) {
            ResultSetMetaData meta = query.getMetaData();
            same(2, meta.getColumnCount());
            same("one", meta.getColumnName(1));
            same(Types.VARCHAR, meta.getColumnType(2));
        }
    }

    // Metadata.

    /** Every method without arguments: what is read when a tool opens a connection. */
    static void f2_f3_every_property_has_its_type(Connection connection) throws Exception {
        DatabaseMetaData meta = connection.getMetaData();
        List<String> wrong = new ArrayList<>();
        int called = 0;
        for (Method method : DatabaseMetaData.class.getMethods()) {
            if (method.getParameterCount() > 0) {
                continue;
            }
            called++;
            try {
                Object answer = method.invoke(meta);
                if (answer instanceof ResultSet) {
                    rows((ResultSet) answer);
                }
            } catch (InvocationTargetException e) {
                // The driver itself lacks some.
                if (!(e.getCause() instanceof SQLFeatureNotSupportedException)) {
                    wrong.add(method.getName() + ": " + e.getCause());
                }
            }
        }
        that(called > 100, called + " methods");
        that(wrong.isEmpty(), wrong.toString());
        same("Skep", meta.getDatabaseProductName());
        same("\"", meta.getIdentifierQuoteString());
        same("schema", meta.getSchemaTerm());
        that(!meta.isReadOnly(), "read only");
        that(meta.supportsGroupBy() && meta.supportsOuterJoins() && meta.supportsUnionAll(), "language");
        that(meta.getNumericFunctions().contains("abs"), meta.getNumericFunctions());
        that(meta.supportsResultSetType(ResultSet.TYPE_FORWARD_ONLY), "forward only");
        for (int level : new int[] {0, 1, 2, 4, 8}) {
            meta.supportsTransactionIsolationLevel(level);
        }
        meta.supportsConvert(Types.INTEGER, Types.VARCHAR);
    }

    /** Listings, as DBeaver's tree and Tableau's data source page ask for them. */
    static void f9_f11_f12_listings(Connection connection) throws Exception {
        run(connection,
                "CREATE TABLE " + SCHEMA + ".listed (id BIGINT NOT NULL, price DECIMAL(10, 2), name VARCHAR, t TIMESTAMP)",
                "COMMENT ON COLUMN " + SCHEMA + ".listed.price IS 'in euro'",
                "CREATE VIEW " + SCHEMA + ".seen AS SELECT id FROM " + SCHEMA + ".listed");
        DatabaseMetaData meta = connection.getMetaData();
        same(List.of("skep"), column(meta.getCatalogs(), "TABLE_CAT"));
        List<String> schemas = column(meta.getSchemas(), "TABLE_SCHEM");
        that(schemas.containsAll(List.of("main", "lake", SCHEMA)), schemas.toString());
        same(List.of(SCHEMA), column(meta.getSchemas("skep", "jdbc\\_check"), "TABLE_SCHEM"));
        that(column(meta.getTableTypes(), "TABLE_TYPE").containsAll(List.of("TABLE", "VIEW")), "types");
        String[][] wanted = {null, {"TABLE"}, {"TABLE", "VIEW"}, {"BASE TABLE"}};
        for (String[] types : wanted) {
            for (String catalog : new String[] {null, "skep"}) {
                List<String> found = column(meta.getTables(catalog, SCHEMA, "%", types), "TABLE_NAME");
                that(found.contains("listed"), Arrays.toString(types) + " " + found);
                boolean views = types == null || types.length == 2;
                same(views, found.contains("seen"));
            }
        }
        same(List.of("listed"), column(meta.getTables(null, SCHEMA, "list_d", null), "TABLE_NAME"));
        ResultSet columns = meta.getColumns("skep", SCHEMA, "listed", "%");
        List<String> described = new ArrayList<>();
        while (columns.next()) {
            described.add(columns.getInt("ORDINAL_POSITION") + " " + columns.getString("COLUMN_NAME") + " "
                    + columns.getString("TYPE_NAME") + " " + columns.getInt("DATA_TYPE") + " "
                    + columns.getInt("COLUMN_SIZE") + " " + columns.getInt("NULLABLE") + " "
                    + columns.getString("IS_NULLABLE") + " " + columns.getString("REMARKS"));
        }
        same(4, described.size());
        that(described.get(0).startsWith("1 id BIGINT -5"), described.toString());
        that(described.get(0).contains(" 0 NO"), described.toString());
        that(described.get(1).contains("price DECIMAL(10, 2) 3 10 1 YES"), described.toString());
        same(List.of("price"), column(meta.getColumns(null, SCHEMA, "listed", "pri%"), "COLUMN_NAME"));
        that(column(meta.getColumns(null, null, null, null), "TABLE_NAME").size() > 20, "columns of all tables");
    }

    static void f10_keys_are_typed_and_empty(Connection connection) throws Exception {
        DatabaseMetaData meta = connection.getMetaData();
        same("[]", rows(meta.getPrimaryKeys(null, SCHEMA, "listed")).toString());
        same("[]", rows(meta.getPrimaryKeys("skep", SCHEMA, "listed")).toString());
        same("[]", rows(meta.getImportedKeys(null, SCHEMA, "listed")).toString());
        same("[]", rows(meta.getExportedKeys(null, SCHEMA, "listed")).toString());
        same("[]", rows(meta.getCrossReference(null, SCHEMA, "listed", null, SCHEMA, "once")).toString());
    }

    /** Listings that the driver answers by itself, or says that it cannot; either way the connection stays. */
    static void listings_of_the_driver(Connection connection) throws Exception {
        DatabaseMetaData meta = connection.getMetaData();
        List<Check> calls = List.of(
                c -> rows(meta.getIndexInfo(null, SCHEMA, "listed", false, true)),
                c -> rows(meta.getProcedures(null, null, "%")),
                c -> rows(meta.getProcedureColumns(null, null, "%", "%")),
                c -> rows(meta.getFunctions(null, null, "%")),
                c -> rows(meta.getFunctionColumns(null, null, "%", "%")),
                c -> rows(meta.getUDTs(null, null, "%", null)),
                c -> rows(meta.getSuperTables(null, null, "%")),
                c -> rows(meta.getSuperTypes(null, null, "%")),
                c -> rows(meta.getAttributes(null, null, "%", "%")),
                c -> rows(meta.getBestRowIdentifier(null, SCHEMA, "listed", 0, true)),
                c -> rows(meta.getVersionColumns(null, SCHEMA, "listed")),
                c -> rows(meta.getTablePrivileges(null, SCHEMA, "%")),
                c -> rows(meta.getColumnPrivileges(null, SCHEMA, "listed", "%")),
                c -> rows(meta.getPseudoColumns(null, SCHEMA, "%", "%")),
                c -> rows(meta.getTypeInfo()),
                c -> rows(meta.getClientInfoProperties()));
        for (Check call : calls) {
            try {
                call.run(connection);
            } catch (SQLFeatureNotSupportedException e) {
                continue;
            } catch (SQLException e) {
                that(e.getCause() instanceof UnsupportedOperationException, String.valueOf(e));
            }
        }
        same("[[1]]", query(connection, "SELECT 1").toString());
    }

    /** What DBeaver does with a connection around its statements. */
    static void the_connection_answers_tools(Connection connection) throws Exception {
        that(connection.isValid(10), "valid");
        that(!connection.isClosed(), "open");
        that(connection.getAutoCommit(), "auto commit");
        connection.setReadOnly(false);
        connection.isReadOnly();
        connection.getTransactionIsolation();
        connection.getWarnings();
        connection.clearWarnings();
        connection.getCatalog();
        connection.getSchema();
    }

    // Sessions.

    static void f18_the_session_lasts_between_calls(Connection connection) throws Exception {
        run(connection, "SET skep.schema = '" + SCHEMA + "'");
        same("[[3]]", query(connection, "SELECT count(*) FROM once").toString());
        run(connection, "SET skep.schema = 'main'");
        run(connection, "BEGIN", "DELETE FROM " + SCHEMA + ".once");
        same("[[0]]", query(connection, "SELECT count(*) FROM " + SCHEMA + ".once").toString());
        run(connection, "ROLLBACK");
        same("[[3]]", query(connection, "SELECT count(*) FROM " + SCHEMA + ".once").toString());
    }

    /** The driver takes commit and rollback and sends nothing, so tools must not be told that they may turn auto-commit off. */
    static void tools_leave_auto_commit_on(Connection connection) throws Exception {
        that(!connection.getMetaData().supportsTransactions(), "tools would offer a rollback");
        run(connection, "CREATE TABLE " + SCHEMA + ".auto (id BIGINT)");
        try (Connection other = connect()) {
            other.setAutoCommit(false);
            run(other, "INSERT INTO " + SCHEMA + ".auto VALUES (1)");
            other.rollback();
        }
        same("[[1]]", query(connection, "SELECT count(*) FROM " + SCHEMA + ".auto").toString());
    }

    static void a_catalog_in_the_url(Connection connection) throws Exception {
        Properties properties = new Properties();
        properties.put("user", "ada");
        properties.put("password", "secret");
        properties.put("catalog", "skep");
        Connection other = connect(properties);
        same("[[1]]", query(other, "SELECT 1").toString());
        close(other);
        properties.put("catalog", "nowhere");
        that(fails(c -> connect(properties).close(), connection).getMessage() != null, "message");
    }

    static void f1_a_token_instead_of_a_name(Connection connection) throws Exception {
        Properties properties = new Properties();
        properties.put("token", "some-token-of-an-identity-provider");
        try (Connection other = connect(properties)) {
            same("[[1]]", query(other, "SELECT 1").toString());
        }
    }

    static void f20_unknown_properties_become_headers(Connection connection) throws Exception {
        Properties properties = new Properties();
        properties.put("user", "ada");
        properties.put("password", "secret");
        properties.put("application", "x".repeat(6000));
        try (Connection other = connect(properties)) {
            same("[[1]]", query(other, "SELECT 1").toString());
        }
    }

    static void f15_a_long_error_arrives(Connection connection) throws Exception {
        String name = "x".repeat(20_000);
        SQLException error = fails(c -> query(c, "SELECT " + name + " FROM " + SCHEMA + ".once"), connection);
        that(error.getMessage().contains("xxxx"), error.getMessage());
        same("[[1]]", query(connection, "SELECT 1").toString());
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0].replace("grpc://", "jdbc:arrow-flight-sql://") + "/?useEncryption=false";
        String only = arguments.length > 1 ? arguments[1] : null;
        // The driver logs each error that it also throws.
        java.util.logging.LogManager.getLogManager().reset();
        for (String name : NAMES) {
            Method method = Jdbc.class.getDeclaredMethod(name, Connection.class);
            CHECKS.put(name, connection -> {
                try {
                    method.invoke(null, connection);
                } catch (InvocationTargetException e) {
                    if (e.getCause() instanceof Error error) {
                        throw error;
                    }
                    throw (Exception) e.getCause();
                }
            });
        }
        List<String> failed = new ArrayList<>();
        // Not closed: the driver throws for results that were left unread, as some checks do.
        Connection connection = connect();
        String driver;
        {
            driver = connection.getMetaData().getDriverVersion();
            run(connection, "DROP SCHEMA IF EXISTS " + SCHEMA + " CASCADE", "CREATE SCHEMA " + SCHEMA);
            for (Map.Entry<String, Check> check : CHECKS.entrySet()) {
                if (only != null && !only.equals(check.getKey())) {
                    continue;
                }
                try {
                    check.getValue().run(connection);
                    System.out.println("ok      " + check.getKey());
                } catch (Exception | AssertionError e) {
                    failed.add(check.getKey());
                    System.out.println("FAILED  " + check.getKey());
                    e.printStackTrace(System.out);
                }
            }
            run(connection, "DROP SCHEMA " + SCHEMA + " CASCADE");
        }
        int passed = CHECKS.size() - failed.size();
        System.out.println(passed + " of " + CHECKS.size() + " checks passed");
        report("Arrow Flight SQL JDBC driver " + driver, passed, CHECKS.size(), failed);
        System.exit(failed.isEmpty() ? 0 : 1);
    }

    /** A line for the table of what each client reached. */
    static void report(String client, int passed, int all, List<String> failed) throws IOException {
        String folder = System.getenv("SKEP_REACHED");
        if (folder != null) {
            String line = client + "\t" + passed + "\t" + all + "\t" + String.join(" ", failed) + "\n";
            Files.writeString(Path.of(folder, "jdbc.tsv"), line);
        }
    }

    static final List<String> NAMES = List.of(
            "f4_ddl_and_dml_run_exactly_once",
            "an_error_has_its_message_and_leaves_the_connection_usable",
            "f5_f6_f7_types_of_columns",
            "f7_timestamps_with_a_zone",
            "nested_values",
            "many_rows_stream",
            "max_rows_and_leaving_early",
            "a_statement_is_cancelled",
            "prepared_queries_take_parameters",
            "nulls_are_bound",
            "batches_run_each_row_once",
            "a_prepared_statement_tells_its_columns",
            "f2_f3_every_property_has_its_type",
            "f9_f11_f12_listings",
            "f10_keys_are_typed_and_empty",
            "listings_of_the_driver",
            "the_connection_answers_tools",
            "f18_the_session_lasts_between_calls",
            "tools_leave_auto_commit_on",
            "a_catalog_in_the_url",
            "f1_a_token_instead_of_a_name",
            "f20_unknown_properties_become_headers",
            "f15_a_long_error_arrives");
}
