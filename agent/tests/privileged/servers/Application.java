import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.Executors;

/** An application for the tests, with the JDK's own server: java Application.java PORT LOG. */
class Application {
    public static void main(String[] arguments) throws IOException {
        var log = Files.newOutputStream(Path.of(arguments[1]), StandardOpenOption.CREATE);
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", exchange -> {
            try (exchange) {
                answer(exchange);
            } finally {
                // -1 if it did not come to a response.
                var line = exchange.getResponseCode() + " " + exchange.getRequestURI() + "\n";
                synchronized (log) {
                    log.write(line.getBytes());
                }
            }
        });
        server.start();
    }

    static void answer(HttpExchange exchange) throws IOException {
        exchange.getRequestBody().transferTo(OutputStream.nullOutputStream());
        var path = exchange.getRequestURI().getPath();
        if (path.equals("/chunked")) {
            exchange.sendResponseHeaders(200, 0);
            for (int i = 0; i < 5; i++) {
                exchange.getResponseBody().write("HTTP/1.1 500 Not a response\r\n\r\n".getBytes());
                exchange.getResponseBody().flush();
            }
            return;
        }
        int code = switch (path) {
            case "/form" -> 201;
            case "/index.html", "/large.bin" -> 200;
            case "/moved" -> 301;
            case "/empty" -> 204;
            case "/broken" -> 500;
            default -> 404;
        };
        var body = switch (path) {
            case "/moved", "/empty" -> "";
            case "/large.bin" -> "x".repeat(512 * 1024);
            default -> "hello\n";
        };
        if (code == 301) {
            exchange.getResponseHeaders().set("Location", "/index.html");
        }
        if (exchange.getRequestMethod().equals("HEAD") || body.isEmpty()) {
            exchange.sendResponseHeaders(code, -1);
        } else {
            exchange.sendResponseHeaders(code, body.length());
            exchange.getResponseBody().write(body.getBytes());
        }
    }
}
