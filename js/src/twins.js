// Frames with a closed form whose grid would be too large for a page: the same functions as in
// Python (klrlhf.explore.tilt, .likelihood); a browser test compares the two to rounding error.
import { likelihood } from "./twin-likelihood.js";
import { tilt } from "./twin-tilt.js";

export const twins = { tilt, likelihood };
