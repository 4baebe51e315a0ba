/** The field for the API key, and what waits for a key. */

import { useKey } from "./client.js";
import { byId } from "./dom.js";

let refused = null; // the note or question that the server wanted a key for

/** Show the key's field; once a key is given, go on with what was refused. */
export function askForKey(again = null) {
  if (!byId("key-form").hidden && byId("key").value) byId("key-hint").textContent = "The server did not accept this key.";
  byId("key-form").hidden = false;
  refused = again ?? refused;
  byId("key").focus();
}

/** Put the field away once a request got through. */
export function keyAccepted() {
  byId("key-form").hidden = true;
  byId("key").value = "";
}

/** `onKey` is called with each new key, before what was refused is asked again. */
export function followKey(onKey) {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value);
    const again = refused;
    refused = null;
    onKey();
    again?.();
  });
}
