/**
 * Asks an ELDR router for decode placements. {@link eldr.client.RouterClient} is where to begin; the
 * messages are the contract's own, in {@code eldr.v1}.
 */
package eldr.client;
