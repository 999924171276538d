package eldr.client;

/**
 * A decode worker to fall back on before a placement has named any.
 *
 * @param id its id
 * @param url where it serves
 * @param dpRank the data-parallel rank at that url
 * @param model that it serves; empty stands for every model
 */
public record Worker(String id, String url, int dpRank, String model) {
  /** One that serves every model. */
  public Worker(String id, String url, int dpRank) {
    this(id, url, dpRank, "");
  }
}
