; What a session may see: it is the sum that counts, not the single request.
;
;   agent     who asks in this session: what was seen so far, the line, refusals so far
;   intent    a request that is being decided, and how much it would add
;   source    one thing that the intent wants to read
;   exposure  one thing that the session has seen, and by which request
;   denial    a request that was refused, by which rule and why
;   decision  how a request ended
;
; A request is decided in the order of the saliences: weigh, add up, deny, expose, conclude.
; Afterwards intent and sources are gone; the rest stays as long as the session.

(deftemplate agent
  (slot seen (type INTEGER) (default 0))
  (slot line (type INTEGER))
  (slot denials (type INTEGER) (default 0))
  (slot patience (type INTEGER)))

(deftemplate intent
  (slot id (type STRING))
  (multislot sources (type STRING))
  (slot weight (type INTEGER) (default 0)))

(deftemplate source
  (slot intent (type STRING))
  (slot name (type STRING))
  (slot kind (type SYMBOL) (allowed-symbols public private outside))
  (slot weight (type INTEGER))
  (slot added (type SYMBOL) (allowed-symbols no yes) (default no)))

(deftemplate exposure
  (slot source (type STRING))
  (slot kind (type SYMBOL))
  (slot weight (type INTEGER))
  (slot intent (type STRING)))

(deftemplate denial
  (slot intent (type STRING))
  (slot rule (type SYMBOL))
  (slot reason (type STRING)))

(deftemplate decision
  (slot intent (type STRING))
  (slot verdict (type SYMBOL) (allowed-symbols allowed denied)))

(deffacts session
  (agent (line 40) (patience 40)))

(defrule weigh
  "The catalogue says how much a source tells; it is asked once, its answer is kept."
  (declare (salience 50))
  (intent (id ?id) (sources $? ?name $?))
  (not (source (intent ?id) (name ?name)))
  =>
  (assert (source (intent ?id) (name ?name) (kind (kind-of ?name)) (weight (weight-of ?name)))))

(defrule know
  "What the session has seen tells it nothing new."
  (declare (salience 40))
  ?source <- (source (name ?name) (added no) (weight ?weight&~0))
  (exposure (source ?name))
  =>
  (modify ?source (weight 0)))

(defrule add-up
  (declare (salience 30))
  ?intent <- (intent (id ?id) (weight ?sum))
  ?source <- (source (intent ?id) (added no) (weight ?weight))
  =>
  (modify ?source (added yes))
  (modify ?intent (weight (+ ?sum ?weight))))

(defrule suspended
  (declare (salience 22))
  (intent (id ?id))
  (not (denial (intent ?id)))
  (agent (denials ?denials) (patience ?patience&:(>= ?denials ?patience)))
  =>
  (assert (denial (intent ?id) (rule suspended) (reason "this session was refused too often"))))

(defrule mixture
  "What strangers wrote must not meet what is private, in whatever order."
  (declare (salience 21))
  (intent (id ?id))
  (not (denial (intent ?id)))
  (source (intent ?id) (kind ?one&~public))
  (or (exposure (kind ?other&~public&~?one))
      (source (intent ?id) (kind ?other&~public&~?one)))
  =>
  (assert (denial (intent ?id) (rule mixture)
    (reason "private sources and those from outside in one session"))))

(defrule over-the-line
  (declare (salience 20))
  (intent (id ?id) (weight ?weight))
  (not (denial (intent ?id)))
  (agent (seen ?seen) (line ?line&:(> (+ ?seen ?weight) ?line)))
  =>
  (assert (denial (intent ?id) (rule over-the-line)
    (reason (str-cat "exposure would be " (+ ?seen ?weight) " of " ?line)))))

(defrule expose
  (declare (salience 10))
  (intent (id ?id))
  (not (denial (intent ?id)))
  (source (intent ?id) (name ?name) (kind ?kind) (weight ?weight))
  (not (exposure (source ?name)))
  =>
  (assert (exposure (source ?name) (kind ?kind) (weight ?weight) (intent ?id))))

(defrule allow
  ?intent <- (intent (id ?id) (weight ?weight))
  (not (denial (intent ?id)))
  ?agent <- (agent (seen ?seen))
  =>
  (retract ?intent)
  (modify ?agent (seen (+ ?seen ?weight)))
  (assert (decision (intent ?id) (verdict allowed))))

(defrule deny
  ?intent <- (intent (id ?id))
  (denial (intent ?id))
  ?agent <- (agent (denials ?denials))
  =>
  (retract ?intent)
  (modify ?agent (denials (+ ?denials 1)))
  (assert (decision (intent ?id) (verdict denied))))

(defrule forget
  (declare (salience -10))
  ?source <- (source (intent ?id))
  (not (intent (id ?id)))
  =>
  (retract ?source))
