package eldr.client;

import eldr.v1.Placement;
import eldr.v1.PlacementReason;
import eldr.v1.RouteRequest;
import eldr.v1.WorkerTarget;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.ThreadLocalRandom;

/** The workers that are known, taken in turns while no router answers. */
final class Fallback {
  /** A worker that no placement has named for so long, while others were named, counts as gone. */
  private static final long FORGET_NANOS = Duration.ofMinutes(10).toNanos();

  private record Seen(WorkerTarget target, long at) {}

  private final List<Worker> given;
  private final Map<String, Map<String, Seen>> seen = new HashMap<>();
  private int turn = ThreadLocalRandom.current().nextInt(1 << 16); // clients do not start alike

  Fallback(List<Worker> given) {
    this.given = given;
  }

  synchronized void learn(String model, Placement placement) {
    long now = System.nanoTime();
    Map<String, Seen> workers = seen.computeIfAbsent(model, any -> new HashMap<>());
    for (WorkerTarget target : RouterClient.targets(placement)) {
      workers.put(target.getWorkerId(), new Seen(target, now));
    }
    workers.values().removeIf(worker -> now - worker.at > FORGET_NANOS);
  }

  /**
   * The next worker that the request allows. Labels and groups are not known here, so every worker
   * passes a selector.
   */
  synchronized Optional<Placement> place(RouteRequest request) {
    List<WorkerTarget> allowed = new ArrayList<>();
    known(request.getModel())
        .forEach(
            (id, target) -> {
              if (allows(request, id)) {
                allowed.add(target);
              }
            });
    if (allowed.isEmpty()) {
      return Optional.empty();
    }
    Collections.rotate(allowed, -(turn++ & Integer.MAX_VALUE) % allowed.size());
    WorkerTarget first = allowed.get(0);
    return Optional.of(
        Placement.newBuilder()
            .setWorkerId(first.getWorkerId())
            .setUrl(first.getUrl())
            .setDpRank(first.getDpRank())
            .addAllAlternates(allowed.subList(1, allowed.size()))
            .setReason(PlacementReason.PLACEMENT_REASON_CLIENT_FALLBACK)
            .build());
  }

  private TreeMap<String, WorkerTarget> known(String model) {
    TreeMap<String, WorkerTarget> known = new TreeMap<>();
    for (Worker worker : given) {
      if (worker.model().isEmpty() || worker.model().equals(model)) {
        known.put(
            worker.id(),
            WorkerTarget.newBuilder()
                .setWorkerId(worker.id())
                .setUrl(worker.url())
                .setDpRank(worker.dpRank())
                .build());
      }
    }
    seen.getOrDefault(model, Map.of()).forEach((id, worker) -> known.put(id, worker.target));
    return known;
  }

  private static boolean allows(RouteRequest request, String id) {
    if (request.getExcludeWorkersList().contains(id)) {
      return false;
    }
    if (!request.getPinnedWorker().isEmpty()) {
      return request.getPinnedWorker().equals(id);
    }
    return request.getCandidateWorkersCount() == 0
        || request.getCandidateWorkersList().contains(id);
  }
}
