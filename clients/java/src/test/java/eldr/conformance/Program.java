package eldr.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import eldr.client.RouterClient;
import eldr.client.Worker;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The Java client's program for eldr-conformance: each command in a thread of its own, which {@code
 * cancel} interrupts.
 */
final class Program {
  private final Map<Integer, Thread> threads = new ConcurrentHashMap<>();
  private RouterClient client;

  private Program() {}

  public static void main(String[] arguments) throws IOException, InterruptedException {
    Program program = new Program();
    BufferedReader lines =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      program.take(JsonParser.parseString(line).getAsJsonObject());
    }
    for (Thread thread : program.threads.values()) {
      thread.join();
    }
    program.client.close();
  }

  private void take(JsonObject command) {
    int id = command.get("id").getAsInt();
    switch (command.get("call").getAsString()) {
      case "open" -> {
        open(command);
        answer(id, "result", Json.object("lacks", new JsonArray()));
      }
      case "cancel" -> {
        threads.get(command.get("of").getAsInt()).interrupt();
        answer(id, "result", new JsonObject());
      }
      default -> {
        Thread thread = new Thread(() -> carryOut(id, command));
        threads.put(id, thread);
        thread.start();
      }
    }
  }

  private void carryOut(int id, JsonObject command) {
    RouterClient chosen =
        command.has("timeout") ? client.within(Json.duration(command.get("timeout"))) : client;
    try {
      answer(id, "result", Calls.call(chosen, command));
    } catch (Exception failure) {
      answer(id, "error", Json.error(failure));
    }
  }

  private void open(JsonObject command) {
    RouterClient.Builder options =
        RouterClient.builder(command.get("target").getAsString())
            .timeout(Json.duration(command.get("timeout")));
    if (command.has("token")) {
      options.token(command.get("token").getAsString());
    }
    List<Worker> workers = new ArrayList<>();
    JsonElement fallback = command.get("fallback_workers");
    if (fallback != null && fallback.isJsonArray()) {
      add(workers, fallback.getAsJsonArray(), "");
    } else if (fallback != null) {
      fallback
          .getAsJsonObject()
          .entrySet()
          .forEach(each -> add(workers, each.getValue().getAsJsonArray(), each.getKey()));
    }
    client = options.fallbackWorkers(workers).build();
    // A case tells how long calls take, which is not how long classes take to load.
    client.warmUp(Duration.ofSeconds(20));
  }

  private static void add(List<Worker> workers, JsonArray given, String model) {
    for (JsonElement each : given) {
      JsonArray worker = each.getAsJsonArray();
      String id = worker.get(0).getAsString();
      workers.add(new Worker(id, worker.get(1).getAsString(), worker.get(2).getAsInt(), model));
    }
  }

  private static synchronized void answer(int id, String kind, JsonElement value) {
    JsonObject said = Json.object("id", id);
    said.add(kind, value);
    System.out.println(said); // absent where null, as a case takes it
  }
}
